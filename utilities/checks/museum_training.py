"""Checks of the bug museum in notebook 05."""

import torch

from utilities.checks import Fault, attempt, exercise, expect


def _line(weight: float) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return model


@exercise
def piled_up(answer) -> None:
    """Each step follows the gradient of its own batch, and no other."""
    batches = [(torch.tensor([[1.0]]), torch.tensor([[0.0]]))] * 3
    model = _line(1.0)
    try:
        answer(model, batches, 0.1)
    except Exception as error:  # whatever a variant may raise
        raise Fault(f"the loop raises {type(error).__name__}: {error}") from error
    weight = model.weight.item()
    expect(weight != 1.0, "no step was taken")
    # The loss is weight²: each step multiplies the weight by 1 − 0.2.
    expect(
        abs(weight - 0.8**3) < 1e-5,
        "after three steps the weight is not where three single gradients lead: "
        "gradients of earlier batches are still in it",
    )


@exercise
def mean_of_means(answer) -> None:
    """Accumulated over small batches, the loss is that of the large batch."""
    one = attempt(answer, [[2.0, 4.0], [6.0, 8.0]])
    expect(abs(one - 5.0) < 1e-6, "with small batches of equal length the mean is wrong")
    result = attempt(answer, [[1.0], [3.0, 3.0, 3.0]])
    expect(
        abs(result - 2.5) < 1e-6,
        "a token of a short batch weighs more than one of a long batch",
    )
    result = attempt(answer, [[], [4.0, 4.0]])
    expect(abs(result - 4.0) < 1e-6, "a batch without learned tokens changes the loss")


@exercise
def wrong_loss(answer) -> None:
    """The checkpoint is chosen by rows that were not trained on."""
    history = [
        {"step": 10, "loss": 2.0, "eval_loss": 1.9},
        {"step": 20, "loss": 1.0, "eval_loss": 1.2},
        {"step": 25, "loss": 0.7},
        {"step": 30, "loss": 0.4, "eval_loss": 1.5},
    ]
    result = attempt(answer, history)
    expect(result in (10, 20, 25, 30), "what is returned is not a step of the history")
    expect(
        result not in (25, 30), "the longest-trained step is taken, though validation was better"
    )
    expect(result == 20, "the step taken is not the one with the lowest validation loss")
