"""What pyproject.toml cannot state: folders at the root that are installed inside the package."""

from setuptools import find_packages, setup

FOLDERS = ("assets", "precomputed")  # bundled models, examples and results

setup(
    packages=[*find_packages(include=["vlmcomp*"]), *(f"vlmcomp.{name}" for name in FOLDERS)],
    package_dir={f"vlmcomp.{name}": name for name in FOLDERS},
)
