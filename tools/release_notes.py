"""Print the notes of a release, read from CHANGELOG.md: python tools/release_notes.py [VERSION |
--tag vVERSION]

Without a version, the one of settings.ini; with --tag, the tag must be that version with a v before
it. Lines that were broken at a width are joined again, since the page of a release would show each
break."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## +(\S+).*$", re.MULTILINE)


def current(root=ROOT):
    """The version that settings.ini states."""
    config = ConfigParser()
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]["version"]


def versions(text):
    """{version: its part of the changes} in the order of the file."""
    parts = HEADING.split(text)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2])))


def joined(text):
    """Points in one line each; no code blocks, please."""
    return re.sub(r"\n[ \t]+(?![-*] |\d+[.)] )(?=\S)", " ", text)


def notes(text, version):
    """The notes of one version; ValueError where the changes have none, or only a heading."""
    known = versions(text)
    if not known.get(version):
        what = (
            "is empty"
            if version in known
            else f"is missing; there are {', '.join(known) or 'none'}"
        )
        raise ValueError(f"CHANGELOG.md: the part ## {version} {what}")
    return joined(known[version])


def asked(words, version):
    """Which version the words of the command line ask for, where settings.ini states `version`."""
    if words[:1] == ["--tag"] and len(words) == 2:
        if words[1] != f"v{version}":
            raise ValueError(f"the tag {words[1]} is not v{version}, the version in settings.ini")
        return version
    if len(words) > 1 or words[:1] == ["--tag"]:
        raise ValueError(__doc__)
    return words[0] if words else version


def main(words):
    try:
        text = notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), asked(words, current()))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.reconfigure(encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
