"""`BasicModelRunner`, the interface of the original labs; everything runs on this machine.

    python -m utilities.runner chat RUN              talk to a model
    python -m utilities.runner dashboard RUN [RUN …] rewrite a run's page, beside other runs

RUN is the id that `BasicModelRunner.train` returned, or the folder of any run; `chat` takes any
model.
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
    """A model by name: generate, train on your rows, and compare.

    If a prompt format is saved with the model (every run has one), inputs are questions, and the
    prompts are made in that format. Any other model gets the inputs as they are, and continues
    them. An input that is in the format already is not put into it twice.

    Attributes:
        model_name: `auto`, a hub id, a folder, or the id of a run in `output_dir`.
        output_dir: the folder of the runs that `train` makes.
        rows: the loaded training rows: `question` and `answer`.
        run: the run of the last `train`, which then generates the answers, or None.

    Example:
        `model = BasicModelRunner("EleutherAI/pythia-410m")`, then
        `model.load_data_from_jsonlines("rows.jsonl", "question", "answer")`, then `model.train()`
    """

    def __init__(self, model_name: str = "auto", output_dir: str | Path = RUNS):
        """Keep the name; the model is looked up and loaded at the first use."""
        self.model_name, self.output_dir = str(model_name), Path(output_dir)
        self.rows: list[dict[str, str]] = []
        self.run: Run | None = None
        self._held_out: list[dict[str, str]] = []
        self._base: models.ModelChoice | None = None
        self._loaded: LoadedModel | None = None

    def __call__(
        self, inputs: str | Iterable[str], max_new_tokens: int = 100, stop: Sequence[str] = ()
    ) -> str | list[str]:
        """Generate answers by greedy decoding.

        Args:
            inputs: a text, or several, which are answered in batches.
            max_new_tokens: maximum number of tokens of an answer, 1 or more.
            stop: strings that end an answer, in addition to those of the prompt format.

        Returns:
            An answer, or a list of answers in the order of the inputs.

        Raises:
            RunnerError: an input is not text.
            ModelError: see `models.choose`.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise RunnerError(f"expected text, or a list of texts, found {text!r:.80}")
        answers = self.loaded.ask(texts, max_new_tokens, stop)
        return answers[0] if isinstance(inputs, str) else answers

    @property
    def base(self) -> models.ModelChoice:
        """The model of that name, whose weights `train` starts from."""
        if self._base is None:
            self._base = choose_run(self.model_name, self.output_dir)
        return self._base

    @property
    def loaded(self) -> LoadedModel:
        """The model that generates the answers, loaded at the first use."""
        if self._loaded is None:
            choice = models.choose(str(self.run.folder)) if self.run else self.base
            self._loaded = LoadedModel(choice)
        return self._loaded

    def load_data(self, data: Any, input_key: str = "input", output_key: str = "output") -> None:
        """Load the training rows, in place of those loaded before.

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
        columns = list(dict.fromkeys(chain.from_iterable(table)))
        to_format = columns_for(QUESTION_ANSWER, columns, declared, "the data")
        rows, faults = [], []
        for values in table:
            row = to_format(values)
            fault = row if isinstance(row, str) else QUESTION_ANSWER.fault(row)
            if isinstance(row, str) or fault:
                faults.append(fault)
            else:
                rows.append(row)
        if faults:
            logger.warning(
                "the data: %d bad row(s) left out; the first: %s", len(faults), faults[0]
            )
        self.rows = bare_rows(rows)

    load_data_from_dataframe = load_data

    def load_data_from_jsonlines(
        self, path: str | Path, input_key: str = "input", output_key: str = "output"
    ) -> None:
        """Load the rows of a JSON Lines file; see `load_data`."""
        self._load_file("jsonl", path, input_key, output_key)

    def load_data_from_csv(
        self, path: str | Path, input_key: str = "input", output_key: str = "output"
    ) -> None:
        """Load the rows of a CSV file; see `load_data`."""
        self._load_file("csv", path, input_key, output_key)

    def _load_file(self, file_format: str, path: str | Path, question: str, answer: str) -> None:
        source = Source(
            kwargs={"path": str(path), "format": file_format},
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
        """Train the model of that name on the rows; print and return the run's id.

        A tenth of the rows, split by question, is held out for `evaluate`. The loss on it is
        logged, and has no influence on the training.

        The id is the model's name and a hash of model, rows and settings. So the same call gives
        the same id, and reuses the run if it exists.

        Args:
            is_public: accepted for compatibility, without effect: nothing leaves this machine.
            prompt_format: how a row becomes text; by default the model's own, else
                `question_answer`.
            max_length: maximum tokens of a row; see `tokenization.tokenize_rows`.
            settings: fields of `training.Settings`, such as `learning_rate=1e-4`.

        Raises:
            RunnerError: no rows are loaded, or the format does not take question and answer.
            LabError: see `training.run.train`.
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
            self._run_folder(prompt_format, max_length, settings),
            checked,
            prompt_format=prompt_format,
            choice=self.base,
            eval_data=features["test"],
        )
        self._held_out = parts["test"]
        self._loaded = None  # from now on the saved weights of the run generate the answers
        folder = self.run.folder
        page = write_dashboard(self.run)
        short = folder.name if self.output_dir == Path(RUNS) else folder
        sys.stdout.write(f"run:        {folder.name}\ndashboard:  {page}\n")
        sys.stdout.write(f"playground: python -m utilities.runner chat {short}\n")
        return folder.name

    def _run_folder(
        self, prompt_format: PromptFormat, max_length: int, settings: dict[str, Any]
    ) -> Path:
        """Return the run's folder: the model's name, and a hash of all that decides the result."""
        decisive = {key: value for key, value in settings.items() if key != "if_exists"}
        inputs = [self.base.name, self.rows, prompt_format.model_dump(), max_length, decisive]
        name = re.sub(r"[^\w.-]+", "-", self.base.name.split("/")[-1]).strip("-")
        return self.output_dir / f"{name}-{fingerprint_of(inputs)[:8]}"

    def evaluate(self, max_new_tokens: int = 100) -> dict[str, Any]:
        """Generate answers of the trained model and its base to the held-out questions.

        Both get prompts in the format of the run, and its stop strings.

        Returns:
            `job_id`, the run's id, and `eval_results`: for each question `input`, `target` (the
            reference answer), and `outputs`, first of the trained model, then of its base, each
            with `model_name` and `output`.

        Raises:
            RunnerError: `train` was not called before.
        """
        if self.run is None:
            raise RunnerError("there is nothing to evaluate; call train() first")
        questions = [row["question"] for row in self._held_out]
        tuned = self.loaded.ask(questions, max_new_tokens)
        base = LoadedModel(self.base, self.loaded.prompt_format).ask(questions, max_new_tokens)
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
    """Open a chat in a notebook; if it is not interactive, answer examples instead.

    Args:
        run: a runner, a run, or a `model_name` of `BasicModelRunner`.
        max_new_tokens: maximum number of tokens of an answer.
        examples: the questions that are answered if no chat can be shown.

    Returns:
        The chat as a widget: a text box, a button, and the conversation. Without ipywidgets, or
        without a frontend: a table with `you` and `model`.

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
    reason = "nobody can type here" if has_widgets else "ipywidgets is not installed"
    is_hub = model.choice.source.startswith("hub")
    sys.stdout.write(
        f"No chat, because {reason}; here are answers to examples. In a terminal: "
        f"python -m utilities.runner chat {model.choice.name if is_hub else model.choice.folder}\n"
    )
    answers = [Conversation(model, max_new_tokens).say(text) for text in examples]
    return pd.DataFrame({"you": list(examples), "model": answers})
