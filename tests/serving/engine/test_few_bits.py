"""What a server says of weights in few bits, and what planners and simulators take them for."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.config import load_config
from model.parameters import weight_bytes
from serving.costs.models import find_model
from serving.engine import few_bits
from tests.model.checkpoints import GOLDEN, edit_json
from tests.model.encodings.writing import FORMATS, written


def lines(directory: Path, quantize: str | None = None) -> list[str]:
    return few_bits.told(directory, load_config(directory, dtype="bfloat16", quantize=quantize))


def test_of_whole_weights_nothing_is_said():
    assert lines(GOLDEN / "llama") == []


def test_what_weights_become_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(few_bits, "GIB", 1)  # or all would be 0.00
    four, _ = written("llama", FORMATS["awq"], tmp_path / "four")
    config = load_config(four, dtype="bfloat16")
    file = (four / "model.safetensors").stat().st_size
    whole, int8 = weight_bytes(config), weight_bytes(replace(config, quantize="int8"))
    assert lines(four) == [
        "weights: stored in few bits (awq, int4, groups of 16), are served in bfloat16:"
        f" {whole}.00 GiB in memory, {file}.00 GiB in files; --quantize int8 or fp8 rounds them"
        f" again, and takes {int8}.00 GiB"
    ]
    assert lines(four, "int8") == [
        "weights: stored in few bits (awq, int4, groups of 16), are rounded again, to int8:"
        f" {int8}.00 GiB in memory, {file}.00 GiB in files"
    ]
    eight, _ = written("llama", FORMATS["float-quantized, channels"], tmp_path / "eight")
    stored, ignored = lines(eight)
    assert stored.startswith(
        "weights: stored in few bits (compressed-tensors, fp8, one scale an output channel), stay"
        f" as they are, in fp8: {int8}.00 GiB in memory,"
    )
    assert ignored == (
        "weights: the checkpoint's settings of activations have no effect: activations stay in"
        " bfloat16, KV pages in bfloat16"
    )
    assert len(lines(eight, "int8")) == 2
    assert "rounded again, to int8" in lines(eight, "int8")[0]


def test_what_bfloat16_would_save_is_said_where_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(few_bits, "GIB", 1)
    four, _ = written("llama", FORMATS["awq"], tmp_path)
    edit_json(four / "config.json", lambda config: config.update(dtype="float16"))
    config = load_config(four)
    whole, half = weight_bytes(config), weight_bytes(load_config(four, dtype="bfloat16"))
    assert whole == 2 * half
    (line,) = few_bits.told(four, config)
    assert f"are served in float32: {whole}.00 GiB in memory" in line
    assert f" GiB in files; --dtype bfloat16 takes {half}.00 GiB; --quantize int8 or fp8" in line


@pytest.mark.parametrize(("form", "quantize"), [("int-quantized", "int8"), ("gptq", None)])
def test_planners_see_what_a_server_keeps(tmp_path: Path, form: str, quantize: str | None):
    few, whole = written("llama", FORMATS[form], tmp_path)
    assert find_model(str(few), None) == find_model(str(whole), quantize)
    assert find_model(str(few), "fp8") == find_model(str(whole), "fp8")
