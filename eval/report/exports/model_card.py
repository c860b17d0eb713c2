"""A model card for the Hugging Face Hub: the table, how it was measured, and the same numbers as metadata.

The metadata (``model-index``) is made by huggingface_hub, so the Hub reads it.
"""

from collections.abc import Sequence

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from advdpnp.base.untrusted.text import printable
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.exports.bibtex import to_bibtex
from advdpnp.eval.report.exports.names import METHODS, column_name, dataset_name
from advdpnp.eval.report.markdown import escape, table
from advdpnp.eval.report.tables import number


def to_model_card(frame: pd.DataFrame, rows: Sequence[Row]) -> str:
    """Markdown with a YAML header, to be saved as ``README.md`` beside the weights.

    Args:
        frame: the lines of one model in a leaderboard.
        rows: the same.
    """
    first = frame.iloc[0]
    data = ModelCardData(
        model_name=first["model"],
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "advdpnp"],
        datasets=sorted(set(frame["dataset"])),
        eval_results=[each for _, line in frame.iterrows() for each in _results(line)],
    )
    parts = [
        f"# {escape(first['model'])}", _about(first), "## Accuracy", _accuracies(frame), _flags(frame),
        _measured(frame), "## Cite", f"```bibtex\n{to_bibtex(rows)}```",
    ]  # fmt: skip
    text = "\n\n".join(part for part in parts if part)
    header = f"---\n{data.to_yaml()}\n---\n\n"
    return f"{ModelCard(header + text)}\n"


def _known(line: pd.Series) -> list[str]:
    return [name for name in accuracy_columns(line.to_frame().T) if pd.notna(line[name])]


def _results(line: pd.Series) -> list[EvalResult]:
    threat = f", {line['norm']} {line['eps_text']}" if line["norm"] else ""
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=line["dataset"],
            dataset_name=f"{dataset_name(line['dataset'])}, {line['n']} test images",
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"{column_name(name)}{'' if name in ('clean', 'corruptions') else threat}",
            metric_value=float(line[name]),
        )
        for name in _known(line)
    ]


def _about(line: pd.Series) -> str:
    method = f", trained by {METHODS.get(line['method'], line['method'])}" if line["method"] else ""
    size = "" if pd.isna(line["parameters"]) else f", {int(line['parameters']):,} parameters"
    trained = f"An image classifier ({escape(line['architecture'])}{size}){escape(method)}."
    return (
        f"{trained} It takes float32 images (n, c, h, w) in [0, 1] and returns logits. SHA-256 of the weights: "
        f"`{line['weights_hash']}`."
    )


def _accuracies(frame: pd.DataFrame) -> str:
    records = []
    for _, line in frame.iterrows():
        threat = f"{line['norm']} {line['eps_text']}" if line["norm"] else "none"
        for name in _known(line):
            low, high = (number(line.get(f"{name}_{side}"), 1) for side in ("low", "high"))
            of = dataset_name(line["dataset"])
            judged = "none" if name in ("clean", "corruptions") else threat
            records.append(
                [escape(of), str(line["n"]), judged, escape(column_name(name)), number(line[name]), f"{low} to {high}"]
            )
    heads = ["data", "images", "threat model", "attack", "accuracy (%)", "95 % interval"]
    return "\n".join(table(heads, records, words=("threat model", "attack")))


def _flags(frame: pd.DataFrame) -> str:
    codes = dict.fromkeys(code for text in frame["flags"] for code in text.split("; ") if code)
    if not codes:
        return ""
    lines = [f"- `{code}`: {FLAGS[code].explanation}." if code in FLAGS else f"- `{code}`" for code in codes]
    return "\n".join(["Reasons to doubt these numbers:", "", *lines])


def _measured(frame: pd.DataFrame) -> str:
    sources = sorted(set(frame["corruption_source"]) - {""})
    lines = [
        "Robust accuracy counts an image if the model is right on it and no attack found an image within the threat "
        "model that the model itself misclassifies; the worst case is over all attacks of its threat model.",
        f"Corrupted images: {escape(', '.join(sources))}." if sources else "",
        "Measured by advdpnp:",
    ]
    commands: dict[str, None] = {}
    for _, line in frame.iterrows():
        commands |= {f"# {line['date'][:10]}, {line['device']}; {line['versions']}": None, line["command"]: None}
    block = [printable(line).replace("```", "'``") for line in commands]
    return "\n".join([" ".join(filter(None, lines)), "", "```sh", *block, "```"])
