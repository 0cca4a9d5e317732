"""Package metadata, all of it from settings.ini."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters="=", interpolation=None)
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0",
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"], keywords=cfg["keywords"].split(),
    long_description=(here/"README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)],
    packages=find_packages(include=["wrnb", "wrnb.*"]), package_data={cfg["lib_name"]: ["*.txt", "templates/*"]}, include_package_data=True, python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(), extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "hf", "imagenet", "scale", "widgets")},
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"], "console_scripts": cfg["console_scripts"].split()},
)
