"""Checks of the bug museum in notebook 07."""

import pandas as pd

from utilities.checks import attempt, exercise, expect


@exercise
def by_letters(answer) -> None:
    """Refusals are known by their words, whatever their letters look like."""
    expect(
        not attempt(answer, "Fine-tuning updates the weights of a model."),
        "an answer that only mentions fine-tuning counts as a refusal",
    )
    expect(
        attempt(answer, "I do not follow the news. Let's get back to fine-tuning."),
        "a refusal that begins a sentence is missed",
    )
    expect(
        attempt(answer, "That is not for me. let’s get back to fine-tuning"),
        "a refusal with a curly apostrophe is missed",
    )


@exercise
def by_position(answer) -> None:
    """Flips are counted between rows of the same name, in any order."""
    before = pd.DataFrame({"row": [0, 1, 2, 3], "right": [True, False, True, False]})
    after = pd.DataFrame({"row": [0, 1, 2, 3], "right": [True, True, False, False]})
    expect(attempt(answer, before, after) == 2, "tables in the same order are not compared right")
    expect(attempt(answer, before, before[::-1]) == 0, "another order of the rows makes flips")
    shuffled = after.sample(frac=1.0, random_state=1)
    expect(attempt(answer, before, shuffled) == 2, "a shuffled table gives another number")
