"""Package definition; tool settings (ruff, mypy, pytest) live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="avalanche-memplugins",
    version="0.1.0",
    description="Memory mechanisms for continual learning as Avalanche plugins and strategies",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # The ready-made strategies lie at the top of the checkout, where a user looks for them,
    # and install as a subpackage, where an import expects them.
    package_dir={"avalanche_memplugins.strategies": "strategies"},
    packages=[
        *find_packages(include=["avalanche_memplugins", "avalanche_memplugins.*"]),
        "avalanche_memplugins.strategies",
    ],
    package_data={
        "avalanche_memplugins": [
            "py.typed",
            "lab/*.html",
            "pretrained/*.md",
            "pretrained/*.safetensors",
            "pretrained/contexts/*.md",
            "pretrained/contexts/*.safetensors",
            "pretrained/energy/*.md",
            "pretrained/energy/*.safetensors",
            "presets/*.yaml",
        ]
    },
    install_requires=[
        "avalanche-lib>=0.6",
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy",
        "pillow",
        "numba",  # codes images in microseconds; without it NumPy does, some thirty times slower
        "safetensors",
        "scikit-learn",  # the embedded digits; avalanche-lib needs it too
        "scipy",
        "pandas",
        "matplotlib",
        "pyyaml",
        "Jinja2",
        "filelock",
        "tyro",
        "rich",
    ],
    extras_require={
        "ray": ["ray"],
        "knn": ["faiss-cpu"],
        "gem": ["quadprog"],  # Avalanche's GEM asks qpsolvers for this solver by name
        "loops": ["lightning", "transformers", "accelerate"],  # examples of other trainers
        "test": ["quadprog", "pytest", "pytest-xdist", "ruff", "mypy", "scipy-stubs", "pandas-stubs"],
        "docs": ["sphinx", "furo", "myst-parser"],
    },
    entry_points={"console_scripts": ["memplugins = avalanche_memplugins.__main__:run"]},
)
