"""Models by their ids: real commands against a small Hub, and what its refusals tell a person.

Progress is shown by the library, and is not looked at here.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from huggingface_hub import errors
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from model.errors import CheckpointError
from serving.flags import build_config
from serving.hub import problem_of, weights_among, with_files
from tests.model.checkpoints import copied, edit_json
from tests.serving.test_serve import DEMO, ROOT, start
from tests.support.fake_hub import TOKEN, FakeHub, HubModel, fake_hub

NAME = "org/tiny"
WEIGHTS = "model.safetensors"
SIZES = {"config.json", "generation_config.json", "hf_quant_config.json"}
READ = {
    *SIZES,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "length_head/head.json",
    "length_head/weights/d/0",
}
UNREAD = {
    "README.md",
    ".gitattributes",
    "vocab.json",
    "pytorch_model.bin",
    "original/consolidated.00.pth",
    "onnx/model.safetensors",
    "consolidated.safetensors",
}
FETCH = """
import sys
from model.errors import CheckpointError
from serving.hub import Wanted, fetched
name, revision, wanted = sys.argv[1:]
try:
    print(fetched(name, revision or None, Wanted[wanted]))
except CheckpointError as error:
    print(f"foretoken: {error}", file=sys.stderr)
    sys.exit(2)
"""
"""What a command does before it needs the model, in a quarter of the time."""


@pytest.fixture
def model(tmp_path: Path) -> HubModel:
    folder = copied("llama", tmp_path / "repository")
    for name in sorted(READ | UNREAD):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("{}" if name in SIZES else f"of {name}")
    edit_json(folder / "config.json", lambda top: top.update(max_position_embeddings=10_000))
    return HubModel(folder)


@pytest.fixture
def hub(model: HubModel) -> Iterator[FakeHub]:
    with fake_hub({NAME: model}) as hub:
        yield hub


class Here:
    """A machine: its cache, and a working directory."""

    def __init__(self, home: Path, hub: FakeHub) -> None:
        self.home = home
        self.hub = hub
        (home / "work").mkdir(parents=True)

    def run(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.home / "work",
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.home / "work", env=self.environment()
        )

    def environment(self, **variables: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        about_hub = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url}
        return {**own, "PYTHONPATH": str(ROOT), **about_hub, **variables}

    def fetch(self, revision: str = "", wanted: str = "WHOLE", **variables: str) -> Path:
        done = self.run("-c", FETCH, NAME, revision, wanted, **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def refusal(self, revision: str = "", wanted: str = "WHOLE", **variables: str) -> str:
        done = self.run("-c", FETCH, NAME, revision, wanted, **variables)
        return told(done)

    def simulate(self, *flags: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = ("-m", "serving.cli", "simulate", "--limit", "3", "--json")
        return self.run(*command, *flags, **variables)


def told(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a refusal is, without the progress before it."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("foretoken: ")
    return line.removeprefix("foretoken: ")


@pytest.fixture
def here(tmp_path: Path, hub: FakeHub) -> Here:
    return Here(tmp_path / "home", hub)


def test_exactly_what_is_read_is_fetched_and_the_second_start_fetches_nothing(here, hub, model):
    folder = here.fetch()
    assert folder.name == model.commit
    assert hub.sent() == READ | {WEIGHTS}
    for name in hub.sent():
        assert (folder / name).read_bytes() == (model.folder / name).read_bytes()
    hub.asked.clear()
    assert here.fetch() == here.fetch(revision=model.commit) == folder
    assert not hub.sent()


def test_with_random_weights_the_weights_and_the_head_stay_where_they_are(here, hub):
    here.fetch(wanted="NO_WEIGHTS")
    assert hub.sent() == {name for name in READ if not name.startswith("length_head/")}


def test_a_simulation_reads_the_sizes_alone_and_calls_the_model_by_its_id(here, hub):
    done = here.simulate("--model", NAME)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert hub.sent() == SIZES
    too_few = told(here.simulate("--model", NAME, "--kv-pages", "2147483647"))
    assert f"beside the weights of {NAME} on" in too_few


def test_a_folder_goes_before_an_id_of_the_same_name_and_has_no_revisions(here, hub, model):
    shutil.copytree(model.folder, here.home / "work" / NAME)
    assert here.simulate("--model", NAME).returncode == 0
    line = told(here.simulate("--model", NAME, "--revision", "v2"))
    assert line.startswith("--revision v2 has no effect")
    assert line.endswith("leave it out")
    assert not hub.asked


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://[::1]:9"}])
def test_what_has_been_fetched_starts_without_the_hub(here, hub, variables):
    folder = here.fetch()
    hub.asked.clear()
    assert here.fetch(**variables) == folder
    assert not hub.asked


def test_what_has_been_fetched_starts_while_the_hub_is_broken(here, hub):
    folder = here.fetch()
    hub.broken = True
    assert here.fetch() == folder


def test_a_download_that_is_cut_goes_on_where_it_stopped(here, hub, model):
    whole = bytes(range(256)) * (DOWNLOAD_CHUNK_SIZE // 256 * 3)  # it writes whole chunks alone
    (model.folder / WEIGHTS).write_bytes(whole)
    model.cuts[WEIGHTS] = 1
    folder = here.fetch()
    assert (folder / WEIGHTS).read_bytes() == whole
    starts = [first for method, path, first in hub.asked if method == "GET" and WEIGHTS in path]
    assert starts == [0, DOWNLOAD_CHUNK_SIZE]


def test_files_that_came_before_a_failure_are_kept(here, hub, model):
    model.failing.add(WEIGHTS)
    line = here.refusal()
    assert line.startswith(f"{NAME}: {hub.url} fails (")
    assert line.endswith("try again later")
    model.failing.clear()
    hub.asked.clear()
    here.fetch()
    assert hub.sent() == {WEIGHTS}


def test_half_a_model_is_not_served_without_the_hub(here, hub, model):
    model.failing.add(WEIGHTS)
    here.refusal()
    line = here.refusal(HF_HUB_OFFLINE="1")
    assert f"not all of it is in {here.home / 'hub'}, while HF_HUB_OFFLINE is set" in line


def test_ctrl_c_ends_a_download_at_once(here, hub, model):
    model.silent.add(WEIGHTS)
    process = here.start("-c", FETCH, NAME, "", "WHOLE")
    try:
        while WEIGHTS not in hub.sent():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT  # the library alone gives up after a minute
    finally:
        process.kill()
        process.wait()


def test_shards_are_those_that_the_index_names(here, hub, model):
    for shard in ("a", "b", "of-another-layout"):
        (model.folder / f"{shard}.safetensors").write_text(shard)
    (model.folder / WEIGHTS).unlink()
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (model.folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    here.fetch()
    assert hub.sent() == READ | {"a.safetensors", "b.safetensors", f"{WEIGHTS}.index.json"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({WEIGHTS, "other.safetensors"}, [WEIGHTS]),
        ({"weights.safetensors", "x/y.safetensors"}, ["weights.safetensors"]),
        ({"weights.safetensors", "consolidated.safetensors"}, ["weights.safetensors"]),
        ({"b.safetensors", "a.safetensors"}, ["a.safetensors", "b.safetensors"]),
    ],
)
def test_the_weights_among_the_files(tmp_path, files: set[str], expected: Sequence[str]):
    assert weights_among(NAME, files, tmp_path / "no-index") == expected


def test_a_shard_that_the_repository_lacks_is_left_to_whoever_reads_the_index(tmp_path):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert weights_among(NAME, {"a.safetensors", "c.safetensors"}, index) == ["a.safetensors"]


def test_without_safetensors_nothing_large_is_fetched(here, hub, model):
    (model.folder / WEIGHTS).unlink()
    line = here.refusal()
    assert line.startswith(f"{NAME}: no *.safetensors weights in it; ")
    assert hub.sent() <= READ


@pytest.mark.parametrize("wanted", ["SIZES", "NO_WEIGHTS", "WHOLE"])
def test_a_repository_of_another_format_is_told(here, hub, model, wanted):
    (model.folder / "config.json").unlink()
    line = here.refusal(wanted=wanted)
    assert line.startswith(f"{NAME}: no config.json in it: it is in another format, such as GGUF;")
    assert WEIGHTS not in hub.sent()


def test_a_name_without_an_owner_is_told_how_models_are_named():
    with pytest.raises(CheckpointError, match=r"^gpt2: no such checkpoint directory; .* owner"):
        with_files(build_config("gpt2", {}))
    assert with_files(build_config("/no/folder", {})).checkpoint == "/no/folder"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"architectures": ["GptModel"]}, "GptModel is not supported"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quant_method: 'mxfp4' is not supp"),
    ],
)
def test_what_cannot_be_served_is_known_before_its_weights_are_fetched(
    here, hub, model, said, problem
):
    edit_json(model.folder / "config.json", lambda top: top.update(said))
    assert problem in here.refusal()
    assert WEIGHTS not in hub.sent()


def test_a_disk_without_room_is_known_before_the_weights_are_fetched(here, hub, model):
    model.sizes[WEIGHTS] = 10**18
    line = here.refusal()
    assert line.startswith(f"{NAME}: needs 931322574.6 GiB more in {here.home / 'hub'}, where ")
    assert line.endswith("set HF_HUB_CACHE to a folder that has it")
    assert WEIGHTS not in hub.sent()


def test_weights_that_are_here_need_no_room(here, hub, model):
    model.sizes[WEIGHTS] = 10**18
    here.refusal()
    folder = next((here.home / "hub").glob(f"*/snapshots/{model.commit}"))
    shutil.copy(model.folder / WEIGHTS, folder)
    assert here.fetch() == folder


def test_a_private_model_is_nobodys_business_without_a_token(here, hub, model):
    model.private = True
    assert f"neither a folder here nor a model that {hub.url} shows" in here.refusal()
    assert f"{hub.url} refuses the token in HF_TOKEN" in here.refusal(HF_TOKEN="hf_made_up")
    here.fetch(HF_TOKEN=TOKEN)


def test_a_gated_model_says_where_to_ask(here, hub, model):
    model.gated = True
    for variables in ({}, {"HF_TOKEN": "hf_of_somebody_else"}):
        line = here.refusal(**variables)
        assert f"ask for it at {hub.url}/{NAME}, then set HF_TOKEN" in line
    here.fetch(HF_TOKEN=TOKEN)


@pytest.mark.parametrize("token", [{}, {"HF_TOKEN": TOKEN}])
def test_an_id_that_there_is_not(here, hub, token):
    line = told(here.simulate("--model", "org/tinny", **token))
    assert line.startswith(f"org/tinny: neither a folder here nor a model that {hub.url} shows")
    assert "check the spelling" in line


def test_a_name_that_can_be_no_id(here, hub):
    line = told(here.simulate("--model", "org/a--b"))
    assert line.startswith("org/a--b: neither a folder here nor a model")
    assert "nor an id on the Hugging Face Hub" in told(here.simulate("--model", "tiny"))
    assert not hub.asked


def test_a_revision_that_there_is_not(here, hub, model):
    line = here.refusal(revision="v2")
    assert line.startswith(f"{NAME}: no --revision v2 of it; ")
    assert f"{hub.url}/{NAME}/tree/main" in line


def test_no_network_and_nothing_in_the_cache(here):
    line = here.refusal(HF_ENDPOINT="http://127.0.0.1:9")
    assert line.startswith(f"{NAME}: http://127.0.0.1:9 cannot be reached (")
    assert line.endswith("see to the network and start again, or name a folder")
    assert "HF_HUB_OFFLINE is set; start once without it" in here.refusal(HF_HUB_OFFLINE="1")


def test_a_cache_that_cannot_be_written(here, tmp_path):
    (tmp_path / "file").write_text("")
    line = here.refusal(HF_HOME=str(tmp_path / "file"))
    assert "cannot be written (Not a directory); set HF_HUB_CACHE to a folder that can be" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile(number: int):
    full = OSError(number, os.strerror(number))
    assert "is full; make room there, or set HF_HUB_CACHE" in problem_of(full, NAME, None)


def test_what_the_library_calls_missing_is_told_by_its_cause():
    missing = errors.LocalEntryNotFoundError("not here")
    missing.__cause__ = OSError(errno.ENOSPC, "full")
    assert "is full" in problem_of(missing, NAME, None)


@pytest.mark.slow
def test_a_model_is_served_under_its_id_and_at_the_commit_that_was_had(tmp_path, monkeypatch):
    cut = HubModel(DEMO, cuts={WEIGHTS: 1})
    with fake_hub({"org/demo": cut}) as hub, tempfile.TemporaryFile() as stderr:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        served = start(checkpoint="org/demo", stderr=stderr, names=())
        try:
            with served.client as client:
                assert [model.id for model in client.models.list()] == ["org/demo"]
                answer = client.chat.completions.create(
                    model="org/demo",
                    messages=[{"role": "user", "content": "What is 437 + 985?"}],
                    temperature=0,
                )
            assert (answer.choices[0].message.content or "").endswith("Answer: 1422")
            said = served.said.splitlines()
        finally:
            served.process.kill()
            served.process.wait()
    assert "# org/demo" in said
    assert said.count("Trying to resume download...") == 1
    assert f'revision = "{"c" * 40}"' in said
    assert 'served-model-name = ["org/demo"]' in said
    assert any(line.startswith("length head: ") and str(tmp_path) in line for line in said)


def test_an_error_of_nobodys_is_one_line_too():
    problem = problem_of(RuntimeError("Data processing error: x\ny"), NAME, None)
    assert "cannot be reached (Data processing error: x)" in problem
    assert "\n" not in problem
