"""Packaging of llama3_jax: `pip install .`, with extras tpu, gpu, data, s3, gcs and test."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="llama3_jax",
    version=re.search(r'__version__ = "(.+)"', (HERE / "llama3_jax/__init__.py").read_text()).group(1),
    description="The Llama 3 system in JAX: data, pre-training, post-training, evaluation, inference",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ at the top level is shipped as llama3_jax/configs: data only, no Python in it
    packages=[*find_packages(include=["llama3_jax", "llama3_jax.*"]), "llama3_jax.configs"],
    package_dir={"llama3_jax.configs": "configs"},
    package_data={
        "llama3_jax.configs": ["*.yaml"],
        "llama3_jax.kernels.attention": ["*.json"],
        "llama3_jax.tokenizer": ["*.jinja"],
    },
    entry_points={"console_scripts": ["llama3 = llama3_jax.commands.main:main"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "tensorstore>=0.1.72",  # below Orbax: its arrays in pieces
        "ml_dtypes>=0.5",
        "grain>=0.2.18",
        "array_record>=0.8.6",
        "etils[epath]>=1.9",
        "fsspec>=2025.1",
        "tiktoken>=0.12",
        "rustbpe>=0.1.0",
        "regex>=2024.9",
        "pyyaml>=6.0.2",
        "numpy>=2.1",
        "rich>=13.9",
        "matplotlib>=3.9",
        "tensorboard>=2.18",
        "zstandard>=0.23",
        "pyarrow>=18",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "gpu": ["jax[cuda13]"],
        "data": [  # what `llama3 curate` runs on
            "daft>=0.7.26",
            "isal>=1.7",
            "loky>=3.5",
            "ray>=2.50",
            "resiliparse>=1.0",
            "fasttext-numpy2-wheel>=0.9.2",
            "trafilatura>=2.0",
            "lxml_html_clean>=0.4",  # of trafilatura, which asks for it in a way that older pips overlook
        ],
        "s3": ["s3fs>=2025.1"],
        "gcs": ["gcsfs>=2025.1"],
        "test": [
            # of the extra data
            "daft>=0.7.26",
            "isal>=1.7",
            "loky>=3.5",
            "ray>=2.50",
            "resiliparse>=1.0",
            "fasttext-numpy2-wheel>=0.9.2",
            "trafilatura>=2.0",
            "lxml_html_clean>=0.4",
            # of the tests alone
            "datasketch>=1.6",
            "fastwarc>=1.0",
            "tldextract>=5.1",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "moto[server]>=5",
            "s3fs>=2025.1",
            "gcsfs>=2025.1",
        ],
    },
)
