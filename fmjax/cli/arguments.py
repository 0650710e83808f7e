"""From what was typed to what is asked, and a sentence where they differ."""

import difflib
import itertools
import math
import re
from collections.abc import Sequence

from fmjax.config import ConfigError, suggest

_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def check_verb(verb: str, known: Sequence[str]) -> None:
  if verb not in known:
    raise ConfigError(
      f"fmjax has no verb {verb!r}" + suggest(verb, list(known))
    )


def take_flags(
  words: Sequence[str], flags: Sequence[str]
) -> tuple[list[str], set[str]]:
  """`words` without the flags that every verb has, and those that are set."""
  rest = [word for word in words if word not in flags]
  return rest, {flag for flag in flags if flag in words}


def take_overrides(
  words: Sequence[str],
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
  """`words` without `--dotted.path value` pairs, and the pairs."""
  rest: list[str] = []
  changes: list[tuple[str, str]] = []
  remaining = iter(words)
  for word in remaining:
    option, equals, value = word.partition("=")
    if not (option.startswith("--") and "." in option):
      rest.append(word)
      continue
    if not equals:
      value = next(remaining, "--")
      if value.startswith("--"):
        raise ConfigError(f"{option} lacks a value: write {option} VALUE")
    changes.append((option.removeprefix("--"), value))
  return rest, tuple(changes)


def refuse_unknown_options(
  verb: str, words: Sequence[str], known: Sequence[str]
) -> None:
  """Raises for the first word that is an option, but not of this verb."""
  for word in words:
    option = word.partition("=")[0]
    if not option.startswith("--") or option in (*known, "--help"):
      continue
    near = difflib.get_close_matches(option, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"see fmjax {verb} --help"
    raise ConfigError(f"fmjax {verb} has no option {option}; {remedy}")


def pairs(text: str, option: str) -> dict[str, str]:
  """{"a": "1", "b": "2"} of `a=1,b=2`."""
  result = {}
  for part in text.split(","):
    name, equals, value = part.partition("=")
    if not (name and equals and value):
      raise ConfigError(
        f"{option} {text!r} is no list of pairs: write {option} a=b,c=d"
      )
    if name in result:
      raise ConfigError(f"{option} {text!r} names {name!r} twice")
    result[name] = value
  return result


def number(text: str, option: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ConfigError(f"{option}={text} is no finite number")
  return value


def one_sentence(verb: str, box: str) -> str:
  """The sentence in the box that tyro draws around an error."""
  # A title, then rows between borders, which are blank where the terminal
  # knows no lines; then a rule, and what follows it repeats the help.
  _, *framed = _COLOR.sub("", box).splitlines()
  rows = [row[1:].rstrip("│ ") for row in framed]
  if rows and _is_rule(rows[0]):
    rows = rows[1:]
  rows = list(itertools.takewhile(lambda row: not _is_rule(row), rows))
  if rows and rows[0].strip().startswith("Missing from"):
    # Names are indented by four, their descriptions by eight.
    lacking = [row.strip() for row in rows if re.match(r" {5}\S", row)]
    what = f"lacks {' and '.join(lacking)}"
  else:
    said = " ".join(row.strip() for row in rows).rstrip(".")
    what = f"does not accept this: {said}"
  return f"fmjax {verb} {what}; see fmjax {verb} --help"


def _is_rule(row: str) -> bool:
  return set(row) <= set("─- ")
