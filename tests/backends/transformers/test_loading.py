"""Checkpoints that cannot be used are named in one line."""

from __future__ import annotations

import json
import re
import resource
import shutil
from functools import partial
from pathlib import Path

import pytest
from transformers import AriaConfig

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.checkpoint import check_size
from structdecode.backends.transformers.sandbox import render_within_limits
from structdecode.backends.transformers.templates import rendered
from structdecode.core.errors import ConfigError, ModelError, PromptError
from structdecode.pocket import checkpoint_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_path(), tmp_path / "model"))


def failure(path: Path | str, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(str(path), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_not_there_or_not_a_checkpoint(tmp_path: Path) -> None:
    assert "no such directory" in failure(tmp_path / "none")
    assert "no config.json" in failure(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in failure(tmp_path)


def test_without_a_processor(checkpoint: Path) -> None:
    (checkpoint / "processor_config.json").unlink()
    assert "no processor" in failure(checkpoint)


def test_without_a_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    assert "chat_template" in failure(checkpoint)


def test_text_only_model(checkpoint: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(checkpoint)
    assert "LlamaConfig" in failure(checkpoint)


def test_pickled_weights_are_refused_unless_asked_for(checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = checkpoint / "model.safetensors"
    torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
    weights.unlink()
    assert "--allow-pickle" in failure(checkpoint)
    assert TransformersBackend.load(str(checkpoint), allow_pickle=True).model is not None


def test_code_of_its_own_is_refused_unless_asked_for(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "--trust-remote-code" in failure(checkpoint)


def test_truncated_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    failure(checkpoint)


def test_prompts_that_do_not_fit() -> None:
    backend = TransformersBackend.load(str(checkpoint_path()))
    with pytest.raises(PromptError, match="context"):
        sd.decode(sd.Prompt("red " * 600), backend=backend)
    backend.processor.chat_template = "{{ raise_exception('not that') }}"
    with pytest.raises(PromptError, match="refuses the prompt: TemplateError: not that"):
        sd.decode(sd.Prompt("What is that?"), backend=backend)


def test_device_and_dtype() -> None:
    for options in ({"device": "cuda:77"}, {"device": "toaster"}, {"dtype": "int9"}):
        with pytest.raises(ConfigError):
            TransformersBackend.load(str(checkpoint_path()), **options)


# ------------------------------------------------------------------ configurations and files of strangers

CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "layers without end": ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is 1,000,000,000"),
    "layers of the vision tower": ({"vision_config": {"num_hidden_layers": 10**9}}, "vision_config.num_hidden_layers"),
    "global layers": ({"vision_config": {"num_global_layers": 10**9}}, "num_global_layers"),
    "more layers than weights": ({"text_config": {"num_hidden_layers": 12}}, "would be random numbers"),
    "cross-attention beyond the last layer": ({"text_config": {"cross_attention_layers": [99]}}, "has 99"),
    "cross-attention before the first layer": ({"text_config": {"cross_attention_layers": [-1]}}, "has -1"),
    "cross-attention elsewhere": ({"text_config": {"cross_attention_layers": [1, 5]}}, "would be random numbers"),
    "hidden size": ({"text_config": {"hidden_size": 10**7}}, "parameters"),
    "hidden size a little off": ({"text_config": {"hidden_size": 256}}, "do not fit"),
    "intermediate size": ({"text_config": {"intermediate_size": 10**9}}, "parameters"),
    "vocabulary": ({"text_config": {"vocab_size": 10**9}}, "parameters"),
    "tiles": ({"vision_config": {"max_num_tiles": 10**6}}, "parameters"),
    "no heads": ({"text_config": {"num_attention_heads": 0}}, "zero"),
    "layers as a text": ({"text_config": {"num_hidden_layers": "many"}}, "num_hidden_layers"),
    "hidden size null": ({"text_config": {"hidden_size": None}}, ""),
    "a list for a section": ({"text_config": []}, ""),
    "a model nobody knows": ({"model_type": "nobody"}, "nobody"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused_before_memory_is_spent(case: str, checkpoint: Path) -> None:
    changes, message = CONFIGS[case]
    config = json.loads((checkpoint / "config.json").read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (checkpoint / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in failure(checkpoint)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: one GiB


@pytest.mark.parametrize("content", ["null", "[]", "7", '"a"', "[" * 10_000, '{"a": NaN}'])
def test_what_is_no_configuration(content: str, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(content)
    assert "config.json" in failure(checkpoint)


def test_weights_without_a_place_are_said_in_one_line(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    name = next(iter(weights))
    more = {f"{name}.{i}": weights[name].clone() for i in range(60)}
    save_file({**weights, **more}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="60 weights of the checkpoint have no place") as said:
        TransformersBackend.load(str(checkpoint))
    assert len([w for w in said if "no place" in str(w.message)]) == 1 and "UNEXPECTED" not in capfd.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(20)])
    tokenizer.save_pretrained(checkpoint)
    assert "<extra-19>" in failure(checkpoint)


@pytest.mark.parametrize("asked", ["always", "of one prompt"])
def test_a_chat_template_without_end_is_given_up(asked: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from structdecode.backends.transformers import encoding, loading, templates

    monkeypatch.setattr(encoding, "SECONDS", 0.5)
    monkeypatch.setattr(loading, "check_template", partial(templates.check_template, seconds=0.5))
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    if asked == "always":
        (checkpoint / "chat_template.jinja").write_text(loop)
        assert "it loops" in failure(checkpoint)
        return
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").write_text(
        "{% if messages[0].content[-1].text == 'loop' %}" + loop + "{% endif %}" + template
    )
    backend = TransformersBackend.load(str(checkpoint))
    with pytest.raises(PromptError, match="EndlessTemplateError"):
        backend.codec.inputs(sd.Prompt("loop"))
    assert backend.codec.inputs(sd.Prompt("go on"))["input_ids"].shape[0] == 1


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10**10", "10**10 * [0]", "10**(10**10)", "'x' * (messages|length * 10**10)", "(2 * 10)**(10**8) > 1",
        "range(10**9)|list", "'x'.ljust(10**10)", "'x'.zfill(width=10**10)", "'%10000000000d' % 1", "'%*d' % (10**10, 1)",
        "'%10000000000d'|format(1)", "'{:>9999999999}'.format(1)", "'{:>{w}}'.format_map({'w': 10**10})",
        "'x'|center(10**10)", "'x\n'|indent(10**10)", "'\t'.expandtabs(10**10)", "['x']|map('center', 10**10)|list",
        "('x'|attr('ljust'))(10**10)", "[1]|tojson(indent=10**10)", "[1]|batch(10**10, 0)|list", "(1).to_bytes(10**10)",
        "(range(99999)|list|string).replace('0', range(99999)|join)", "(range(99999)|join).join(range(99999)|map('string'))",
    ],
)  # fmt: skip
def test_a_chat_template_that_builds_too_much_in_one_step_is_given_up(expression: str, checkpoint: Path) -> None:
    """Of one prompt alone, so that it is met while decoding; those below are met on loading."""
    template = (checkpoint / "chat_template.jinja").read_text()
    bomb = f"{{% if messages[0].content[-1].text == 'large' %}}{{% set n = {expression} %}}{{% endif %}}"
    (checkpoint / "chat_template.jinja").write_text(bomb + template)
    with pytest.raises((ModelError, PromptError), match=r"would build more than|Range too big") as caught:
        TransformersBackend.load(str(checkpoint)).codec.inputs(sd.Prompt("large"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loop",
    [
        "{% set ns.t = ns.t ~ ns.t %}", "{% set ns.t = ns.t + ns.t %}", "{% set ns.t = [ns.t] + [ns.t] %}",
        "{% set ns.t = (ns.t, ns.t) %}", "{% set ns.t = {1: ns.t, 2: ns.t} %}", "{% set ns.t = [ns.t, ns.t]|join %}",
        "{% set ns.t %}{{ ns.t }}{{ ns.t }}{% endset %}", "{% set ns.t = namespace(a=ns.t, b=ns.t) %}",
        "{% set ns.t = ns.t.replace('x', 'xx') %}", "{% set ns.t = 'x'.ljust(9999999) %}",
        "{{ 'x'.ljust(9999999) }}", "{% set ns.t = '%s%s'|format(ns.t, ns.t) %}",
    ],
)  # fmt: skip
def test_a_chat_template_whose_loop_builds_too_much_is_given_up(loop: str, checkpoint: Path) -> None:
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").write_text(
        "{% set ns = namespace(t='x') %}{% for i in range(999) %}" + loop + "{% endfor %}" + template
    )
    said = failure(checkpoint)
    assert "\n" not in said
    assert re.search("its chat template (would take all memory|is not done after)", said), (
        "the latter on a busy machine"
    )


def test_a_constant_that_is_never_reached_is_looked_at_too(checkpoint: Path) -> None:
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").write_text("{% if false %}{{ 'x'|center(10**10) }}{% endif %}" + template)
    assert "would build more than" in failure(checkpoint)


def test_a_template_that_multiplies_a_little_renders_as_ever(checkpoint: Path) -> None:
    expected = TransformersBackend.load(str(checkpoint)).codec.inputs(sd.Prompt("How many?"))["input_ids"]
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").write_text("{{ bos_token * 0 }}{% set n = '-' * 2 ** 3 %}" + template)
    backend = TransformersBackend.load(str(checkpoint))
    assert backend.codec.inputs(sd.Prompt("How many?"))["input_ids"].equal(expected)
    steps = """{% set ns = namespace(n='') %}{% macro said(m) %}{{ m.content|map(attribute='text')|join(' ') }}{% endmacro %}
    {%- for m in messages %}{% set ns.n = ns.n ~ loop.index0 + 1 ~ said(m).replace('m', 'mm')|upper %}{% endfor %}
    {%- set n = [ns.n[1:], '%05d|%s' % (7, messages[0]['role']), '{:>4}'.format(1700000000), {'a': (1, 2)}|tojson(indent=2)] %}
    {%- if n[0] != '1HOW MMANY?' or n[1] != '00007|user' or n[2] != '1700000000' or (messages|last) != messages[-1] %}
    {{- raise_exception(n|string) }}{% endif %}"""
    (checkpoint / "chat_template.jinja").write_text(steps + template)
    assert TransformersBackend.load(str(checkpoint)).codec.inputs(sd.Prompt("How many?"))["input_ids"].equal(expected)
    render_within_limits(steps, {"messages": [{"role": "user", "content": [{"text": "How many?"}]}]})
    (checkpoint / "chat_template.jinja").write_text("{% generation %}{{ '-' * 3 }}{% endgeneration %}" + template)
    assert "---" in rendered(TransformersBackend.load(str(checkpoint)).processor, [{"role": "user", "content": []}])


@pytest.mark.parametrize("kind", ["parts", "texts"])
def test_a_template_that_only_the_tokenizer_has(kind: str) -> None:
    from tests.backends.transformers import tiny

    _, processor = tiny.build("llava")
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    expected = rendered(processor, parts)
    processor.chat_template = None
    if kind == "texts":
        processor.tokenizer.chat_template = (
            "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
    assert rendered(processor, parts) == expected and "<image>How many?" in expected


def test_settings_with_numbers_for_names_are_no_layers(tmp_path: Path) -> None:
    """Aria's table of queries by patches."""
    layers = {"num_hidden_layers": 1}
    check_size(AriaConfig(text_config=layers, vision_config=layers, projector_patch_to_query_dict={4: 2}), tmp_path)
