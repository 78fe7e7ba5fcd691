"""The names of the original labs on today's engine; everything stays on this machine.

    python -m utilities.runner chat RUN              talk to a model
    python -m utilities.runner dashboard RUN [RUN …] write a run's page anew, beside other runs

RUN is the id that `BasicModelRunner.train` told, or the folder of any run; `chat` takes any model.
"""

import importlib.util
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from utilities import models
from utilities.errors import RunnerError
from utilities.files import fingerprint_of
from utilities.notebook import is_interactive
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER, get_format
from utilities.rows.columns import columns_for
from utilities.rows.readers import read_table
from utilities.rows.sources import Source, read_rows
from utilities.runner.conversation import Conversation, chat_box
from utilities.runner.lab_functions import bare_rows, split_and_tokenize
from utilities.runner.loaded_model import RUNS, LoadedModel, choose_run, saved_format
from utilities.training.run import train
from utilities.training.run_folder import Run
from utilities.training.run_page import write_dashboard
from utilities.training.settings import Settings

if TYPE_CHECKING:
    from ipywidgets import VBox

logger = logging.getLogger(__name__)

EXAMPLES = ("What is fine-tuning?", "How do I start?", "What do you think of Mars?")


class BasicModelRunner:
    """A model by name: ask it, train it on your rows, and compare.

    A model that has a prompt format saved beside it (every run has) is asked in that format: it
    gets bare questions, as it was taught. Any other model gets the text as it is, and continues it.
    A text that is in the format already is not put into it twice.

    Attributes:
        model_name: `auto`, a hub id, a folder, or the id of a run in `output_dir`.
        output_dir: where `train` makes its runs.
        rows: what was loaded to train on: `question` and `answer`.
        run: what `train` made, or None; from then on it answers.

    Example:
        `model = BasicModelRunner("EleutherAI/pythia-410m")`, then
        `model.load_data_from_jsonlines("rows.jsonl", "question", "answer")`, then `model.train()`
    """

    def __init__(self, model_name: str = "auto", output_dir: str | Path = RUNS):
        """Remember the name; nothing is looked up or loaded before it is needed."""
        self.model_name, self.output_dir = str(model_name), Path(output_dir)
        self.rows: list[dict[str, str]] = []
        self.run: Run | None = None
        self._held_out: list[dict[str, str]] = []
        self._base: models.ModelChoice | None = None
        self._loaded: LoadedModel | None = None

    def __call__(
        self, inputs: str | Iterable[str], max_new_tokens: int = 100, stop: Sequence[str] = ()
    ) -> str | list[str]:
        """Answer greedily.

        Args:
            inputs: a text, or several, which are answered in batches.
            max_new_tokens: tokens an answer may have, 1 or more.
            stop: strings that end an answer, beside those of the prompt format.

        Returns:
            An answer, or a list of them in the order of the inputs.

        Raises:
            RunnerError: an input is not text.
            ModelError: see `models.choose`.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise RunnerError(f"expected text, or a list of texts, found {wrong[0]!r:.80}")
        answers = self.loaded.ask(texts, max_new_tokens, stop)
        return answers[0] if isinstance(inputs, str) else answers

    @property
    def base(self) -> models.ModelChoice:
        """The model of that name, from which `train` starts."""
        if self._base is None:
            self._base = choose_run(self.model_name, self.output_dir)
        return self._base

    @property
    def loaded(self) -> LoadedModel:
        """The model that answers, loaded at the first use."""
        if self._loaded is None:
            choice = models.choose(str(self.run.folder)) if self.run else self.base
            self._loaded = LoadedModel(choice)
        return self._loaded

    def load_data(self, data: Any, input_key: str = "input", output_key: str = "output") -> None:
        """Take the rows to train on, in place of those loaded before.

        Rows without an input or an output are left out, with a warning.

        Args:
            data: a list of dicts, a DataFrame, or a `Dataset`.
            input_key: the column with the questions.
            output_key: the column with the answers.

        Raises:
            DataError: there is no such column, or no usable row.
        """
        table = [row.values for row in read_table(data)]
        declared = {"question": input_key, "answer": output_key}
        found = list(dict.fromkeys(chain.from_iterable(table)))
        rows = list(map(columns_for(QUESTION_ANSWER, found, declared, "the data"), table))
        faults = list(map(QUESTION_ANSWER.fault, rows))
        if bad := list(filter(None, faults)):
            logger.warning("the data: %d bad row(s) left out; the first: %s", len(bad), bad[0])
        self.rows = bare_rows(row for row, fault in zip(rows, faults, strict=True) if not fault)

    load_data_from_dataframe = load_data

    def load_data_from_jsonlines(
        self, path: str | Path, input_key: str = "input", output_key: str = "output"
    ) -> None:
        """Take the rows of a JSON Lines file; see `load_data`."""
        self._load_file("jsonl", path, input_key, output_key)

    def load_data_from_csv(
        self, path: str | Path, input_key: str = "input", output_key: str = "output"
    ) -> None:
        """Take the rows of a CSV file; see `load_data`."""
        self._load_file("csv", path, input_key, output_key)

    def _load_file(self, form: str, path: str | Path, question: str, answer: str) -> None:
        source = Source(
            kwargs={"path": str(path), "format": form},
            columns={"question": question, "answer": answer},
            on_bad_rows="skip",
        )
        self.rows = bare_rows(read_rows(source, QUESTION_ANSWER))

    def train(
        self,
        is_public: bool | None = None,
        prompt_format: str | PromptFormat | None = None,
        max_length: int = 512,
        **settings: Any,
    ) -> str:
        """Train the model of that name on the rows; tell and return the run's id.

        A tenth of the rows, chosen by what they ask, is held out for `evaluate`. Its loss is
        watched, nothing is chosen by it.

        The id is made of the model's name and a hash of model, rows and settings. So the same call
        gives the same id, and takes the run that is there already.

        Args:
            is_public: accepted, and without effect: nothing leaves this machine.
            prompt_format: how a row becomes text; by default the model's own, else
                `question_answer`.
            max_length: tokens a row may have; see `tokenization.tokenize_rows`.
            settings: as `training.Settings.of` takes them, such as `learning_rate=1e-4`.

        Raises:
            RunnerError: no data were loaded, or the format has no place for them.
            LabError: see `training.train`.
        """
        if not self.rows:
            raise RunnerError(
                "there are no rows to train on; call load_data_from_jsonlines(FILE, input_key=…, "
                "output_key=…) first"
            )
        if is_public is not None:
            sys.stdout.write("Everything stays on this machine; is_public changes nothing.\n")
        checked = Settings.of(**{"if_exists": "reuse", **settings})
        model, tokenizer = models.load(self.base)
        if isinstance(prompt_format, str):
            prompt_format = get_format(prompt_format)
        prompt_format = prompt_format or saved_format(self.base) or QUESTION_ANSWER
        prompt_format = prompt_format.bind(tokenizer)
        parts, features = split_and_tokenize(self.rows, prompt_format, tokenizer, max_length)
        self.run = train(
            model,
            tokenizer,
            features["train"],
            self._place(prompt_format, max_length, settings),
            checked,
            prompt_format=prompt_format,
            choice=self.base,
            eval_data=features["test"],
        )
        self._held_out, self._loaded = parts["test"], None  # what was saved will answer
        folder = self.run.folder
        page = write_dashboard(self.run)
        short = folder.name if self.output_dir == Path(RUNS) else folder
        sys.stdout.write(f"run:        {folder.name}\ndashboard:  {page}\n")
        sys.stdout.write(f"playground: python -m utilities.runner chat {short}\n")
        return folder.name

    def _place(
        self, prompt_format: PromptFormat, max_length: int, settings: dict[str, Any]
    ) -> Path:
        decisive = {key: value for key, value in settings.items() if key != "if_exists"}
        made_of = [self.base.name, self.rows, prompt_format.model_dump(), max_length, decisive]
        name = re.sub(r"[^\w.-]+", "-", self.base.name.split("/")[-1]).strip("-")
        return self.output_dir / f"{name}-{fingerprint_of(made_of)[:8]}"

    def evaluate(self, max_new_tokens: int = 100) -> dict[str, Any]:
        """Let the trained model and its base answer the questions held out from training.

        Both are asked in the prompt format of the run, and cut at its stop strings.

        Returns:
            `job_id`, the run's id, and `eval_results`: for each question `input`, the right
            `target`, and `outputs`, first of the trained model, then of its base, each with
            `model_name` and `output`.

        Raises:
            RunnerError: nothing was trained here.
        """
        if self.run is None:
            raise RunnerError("there is nothing to evaluate; call train() first")
        asked = [row["question"] for row in self._held_out]
        tuned = self.loaded.ask(asked, max_new_tokens)
        base = LoadedModel(self.base, self.loaded.prompt_format).ask(asked, max_new_tokens)
        names = (self.run.folder.name, self.base.name)
        results = [
            {
                "input": row["question"],
                "target": row["answer"],
                "outputs": [
                    {"model_name": name, "output": answer}
                    for name, answer in zip(names, answers, strict=True)
                ],
            }
            for row, *answers in zip(self._held_out, tuned, base, strict=True)
        ]
        return {"job_id": names[0], "eval_results": results}


def chat(
    run: "BasicModelRunner | Run | str | Path",
    max_new_tokens: int = 100,
    examples: Sequence[str] = EXAMPLES,
) -> "VBox | pd.DataFrame":
    """Open a chat in a notebook; where nobody can type, answer examples instead.

    Args:
        run: a runner, a run, or whatever `BasicModelRunner` takes as a name.
        max_new_tokens: tokens an answer may have.
        examples: what is asked where no chat can be shown.

    Returns:
        The chat, for the notebook to show: a text box, a button, and what was said. Without
        ipywidgets, or where no frontend listens: a table with `you` and `model`.

    Raises:
        LabError: see `BasicModelRunner`.
    """
    if isinstance(run, Run | str | Path):
        model = LoadedModel(choose_run(str(run.folder if isinstance(run, Run) else run)))
    else:
        model = run.loaded
    has_widgets = importlib.util.find_spec("ipywidgets") is not None
    if has_widgets and is_interactive():
        return chat_box(Conversation(model, max_new_tokens))
    missing = "nobody can type here" if has_widgets else "ipywidgets is not installed"
    is_hub = model.choice.source.startswith("hub")
    sys.stdout.write(
        f"No chat, because {missing}; here are answers to examples. In a terminal: "
        f"python -m utilities.runner chat {model.choice.name if is_hub else model.choice.folder}\n"
    )
    answers = [Conversation(model, max_new_tokens).say(text) for text in examples]
    return pd.DataFrame({"you": list(examples), "model": answers})
