"""Hands settings.ini to setuptools: nothing about the package is written down twice."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser()
config.read(HERE / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

PYTHONS = ("3.11", "3.12", "3.13")
pythons = PYTHONS[PYTHONS.index(cfg["min_python"]) : PYTHONS.index(cfg["max_python"]) + 1]
major, minor = cfg["max_python"].split(".")
extras = {name: cfg[f"{name}_requirements"].split() for name in ("workbook", "dev")}
readme = HERE / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        *(f"Programming Language :: Python :: {python}" for python in pythons),
    ],
    python_requires=f">={cfg['min_python']},<{major}.{int(minor) + 1}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["data/*.csv", "models/**/*", "samples/**/*"]},
    zip_safe=False,
    entry_points={
        "console_scripts": ["brain_tumor = brain_tumor.cli:main"],
        "nbdev": ["brain_tumor = brain_tumor._modidx:d"],
    },
)
