"""Accelerators by name: what they can and hold, by their makers' data sheets (dense, without sparsity)."""

from dataclasses import dataclass

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device.

    Attributes:
        half: floating-point operations a second in bfloat16 (V100: float16), by tensor cores.
        full: in float32; where there is TF32, which torch uses for convolutions, still plain float32.
        memory: bytes.
    """

    half: float
    full: float
    memory: float


ACCELERATORS = {
    "v100_32gb": Accelerator(125 * TERA, 15.7 * TERA, 32 * GIGA),
    "a100_40gb": Accelerator(312 * TERA, 19.5 * TERA, 40 * GIGA),
    "a100_80gb": Accelerator(312 * TERA, 19.5 * TERA, 80 * GIGA),
    "h100_80gb": Accelerator(989 * TERA, 67 * TERA, 80 * GIGA),
    "h200_141gb": Accelerator(989 * TERA, 67 * TERA, 141 * GIGA),
    "l40s_48gb": Accelerator(362 * TERA, 91.6 * TERA, 48 * GIGA),
    "rtx4090_24gb": Accelerator(165 * TERA, 82.6 * TERA, 24 * GIGA),
}
