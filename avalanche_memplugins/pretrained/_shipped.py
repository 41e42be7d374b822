"""Checksums of headers that were written before headers had one."""

HEADERS = {
    "ea0e885f07b2b5aa": "b742219c4de51d9c22b8ce588c1afd079b3477eef395df640c7be584c9b4b87f",  # omniglot-16
    "c324e1e68ed77035": "285964a9ae0da7e6c3e22cfe94e2d88179584e5b59f73615b59df91af18f33d2",  # omniglot-28
    "6145e1c4d061eb70": "f7a4c8672ba90026fa98afd33976d262030fc05fcc2d2e18163916c2747082d8",  # rehearsal-28
    "be398203f12f8d8a": "a6d8555ed77a216c04044b0659e36a19fa42a00396a57611f6cde5e557787dbe",  # strings-128
    "5b3b6cd189432480": "42ff3abbf5c6a340d182a7c3388d5a2d823191e8b5d1b122c8095b563b83b146",  # natural32-dkm
    "ba22e913649ec3c8": "e351105d8eeb76278af1376262e0a0cb82e56132a766605977f5d4a0fc4b8ab0",  # natural32-vae
    "735ea7b7b8185996": "95a945126f96e3d42eade0a1c0163095e6999049550b354881e4716ef9657d4d",  # omniglot28-dkm-reader
    "28bd52c26980f498": "7aa36579f8aedf8d0be39f4e401e5a1b4fdb106b05fb9862bba041d9d7ca26f1",  # omniglot28-dkm
    "fc536caae49f8e73": "729a04c723e8a93fd3e3ea05bb22dc0263190de5308490830c0ee17a104e4ce2",  # omniglot28-km
    "e7b6bc69ef36529e": "81f09290bb1c0a263392ecc5055600709e31fc8a8d52d652f34285d0887e1adc",  # omniglot28-vae
}
"""Of the networks that come with the library: by the fingerprint of their tensors, the SHA-256 of the header."""
