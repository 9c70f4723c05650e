"""Where torch and transformers are installed: agreement on weights that no golden file knows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.generate import Sampling, generate, prompt_logits
from tests.model.checkpoints import NAMES, load

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_transformers_just_wrote(tmp_path: Path, name: str):
    from tests.golden.make_goldens import CASES, first_telling, save

    (case,) = (case for case in CASES if case.name == name)
    model, wanted = first_telling(case, seed=1000)
    save(case, model, tmp_path)
    config, params = load(tmp_path)
    prompt: list[Any] = wanted["prompt"].tolist()
    found = prompt_logits(params, config, prompt)
    np.testing.assert_allclose(found, wanted["logits"], atol=1e-4, rtol=0)
    reply = generate(params, config, prompt, Sampling(), len(wanted["greedy"]))
    assert list(reply.tokens) == wanted["greedy"].tolist()
