"""Where the project lies: for an experiment, which DVC runs in a copy of it under .dvc, still the project itself."""

from pathlib import Path


def project_folder() -> Path:
    """The project's folder: that around .dvc for what runs in a copy there, else the working directory."""
    return next((folder.parent for folder in Path.cwd().parents if folder.name == ".dvc"), Path())
