from setuptools import find_namespace_packages as find
from setuptools import setup

configs = ["u2seg.configs", *(f"u2seg.configs.{name}" for name in find("configs"))]
setup(packages=[*find(include=["u2seg*"]), *configs], package_dir={"u2seg.configs": "configs"})
