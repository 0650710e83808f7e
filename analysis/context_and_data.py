"""What a longer context, more data, and metadata bring.

python -m analysis.context_and_data   # draws its figures; also `make figures`
"""

from analysis import clicks, cold_items, contexts, plots, scaling
from fmjax.scaling.reports import study_figure


def readme() -> str:
  """What the README says of the three studies."""
  return "\n".join(
    [
      *(f"* {line}" for line in verdicts()),
      "",
      "Brackets: 95 %, paired over users; of ten times as much over seeds, too."
      " [Figures and every step](analysis/context_and_data.ipynb).",
    ]
  )


def verdicts() -> list[str]:
  """The three studies in a sentence or two each."""
  return [*contexts.sentences(), *clicks.sentences(), *cold_items.sentences()]


def main() -> None:
  scaling.save(contexts.draw, "contexts")
  study_figure.draw(scaling.read("globo"), plots.FIGURES / "globo.png")
  scaling.save(cold_items.draw, "cold_items")


if __name__ == "__main__":
  main()
