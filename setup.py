from setuptools import find_packages, setup

packages = [*find_packages(include=["u2seg", "u2seg.*"]), "u2seg.configs"]
setup(packages=packages, package_dir={"u2seg.configs": "configs"})
