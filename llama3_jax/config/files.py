"""Where run files are: a path, or the name of one published with the package."""

from pathlib import Path

from llama3_jax.config.errors import ConfigError, Problem, nearest


def published_configs() -> Path:
    """Where published run files are: inside an installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: Path | str) -> Path:
    """The run file meant by `name`: a path, a path without its `.yaml`, or a published name (`llama3_8b`).

    Raises: ConfigError naming the nearest existing one.
    """
    given, published = Path(name).expanduser(), published_configs()
    for directory in (Path(), published):
        for candidate in (directory / given, directory / f"{given}.yaml"):
            if candidate.is_file():
                return candidate
    if (given / "config.yaml").is_file():
        raise ConfigError([Problem(str(name), "", f"is a directory; name its run file, {given / 'config.yaml'}")])
    beside = [str(path) for path in given.parent.glob("*.yaml")]
    shipped = sorted(path.stem for path in published.glob("*.yaml"))
    message = f"no such run file{nearest(str(name), [*beside, *shipped])}"
    raise ConfigError([Problem(str(name), "", f"{message} (published: {', '.join(shipped)})")])


def display_name(path: Path) -> str:
    """How a run file is called in messages: `configs/NAME` if published, else as seen from here."""
    resolved = path.resolve()
    if resolved.parent == published_configs():
        return f"configs/{resolved.name}"
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(path)
