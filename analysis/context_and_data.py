"""What parameters and data bring on real news, and titles without metadata.

python -m analysis.context_and_data # draws its figures; also `make figures`
"""

from typing import Any

from analysis import plots, scaling, tables
from analysis.performance import Shown
from fmjax.scaling.reports import study_figure

_OF = {"params": "parameters", "tokens": "training data"}


def study() -> scaling.Study:
  return scaling.read("globo")


def gains() -> Shown:
  """Of ten times the parameters and ten times the data, paired by user."""
  rows = [
    (
      f"{each['factor']:.1f} × {_OF[each['of']]}",
      f"{each['from']} → {each['to']}",
      _gain(each["nll"]),
      _gain(each["ndcg@10"]),
    )
    for each in study()["gains"]
  ]
  head = ("of", "from → to", "test NLL", "NDCG@10")
  return Shown(
    about=gains.__doc__ or "",
    markdown=tables.markdown(head, rows, text=(0, 1)),
  )


def agreement() -> Shown:
  """Do loss and NDCG@10 agree in sign?"""
  rows = [
    (_OF.get(axis, axis), _told(found))
    for axis, found in study()["loss_and_metric"].items()
  ]
  head = ("along", "lower loss and higher NDCG@10")
  return Shown(
    about=agreement.__doc__ or "",
    markdown=tables.markdown(head, rows, text=(0, 1)),
  )


def _gain(found: dict[str, Any]) -> str:
  low, high = found["interval"]
  return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _told(found: Any) -> str:
  return f"{found:+.2f}" if isinstance(found, float) else str(found)


def main() -> None:
  study_figure.draw(study(), plots.FIGURES / "globo.png")


if __name__ == "__main__":
  main()
