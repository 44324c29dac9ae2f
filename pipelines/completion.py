"""What the shell completes after an option.

Belongs here: values out of the config. Does not: the shells' scripts (typer has them).
"""

from pathlib import Path

import typer


def complete_target(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the config's targets; none where the config can't be read."""
    from resources.config import find_config, load_config
    from resources.errors import ConfigError

    given = context.params.get("config")
    try:
        config = load_config(find_config(Path(given) if given else None))
    except ConfigError:
        return []
    return [target.name for target in config.targets if target.name.startswith(incomplete)]
