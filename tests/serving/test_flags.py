"""Flags, variables and files: one table, one precedence, unknown names refused."""

from collections.abc import Collection
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.cli import run as cli_run
from serving.config import ConfigError
from serving.flags import (
    ACCEPTED_SWITCHES,
    as_typed,
    build_config,
    describe,
    mistyped,
    part_options,
    read_config_file,
    server_options,
)
from serving.platforms import suited


@click.command(context_settings={"token_normalize_func": lambda t: t.replace("_", "-")})
@click.option("--config", is_eager=True, expose_value=False, callback=lambda c, _, v: _load(c, v))
@server_options
def show(**values):
    for name in ACCEPTED_SWITCHES:
        values.pop(name.replace("-", "_"))
    click.echo(describe(build_config("model-dir", values)))


def _load(context: click.Context, path: str | None) -> None:
    if path is not None:
        context.default_map = read_config_file(Path(path))


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(show, list(args), env=env)


def shown(*args: str, env: dict[str, str] | None = None) -> list[str]:
    result = run(*args, env=env)
    assert result.exception is None, result.output
    return result.output.splitlines()


def test_dashes_and_underscores_and_peers_spellings_mean_the_same():
    for flag in ("--page-size", "--page_size", "--block-size"):
        assert "page-size = 8" in shown(flag, "8")
    assert "prefill-workers = 2" in shown("--pd-num-prefill", "2")


def test_command_line_beats_variable_beats_file_beats_default(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text("max_num_seqs = 3\nport = 1003\nmax-prefill-rows = 5\n")
    env = {"FORETOKEN_MAX_NUM_SEQS": "2", "FORETOKEN_PORT": "1002"}
    lines = shown("--config", str(file), "--port", "1001", env=env)
    assert "port = 1001" in lines
    assert "max-num-seqs = 2" in lines
    assert "max-prefill-rows = 5" in lines
    assert "page-size = 16" in lines


def test_unknown_flag_is_an_error_that_names_the_nearest():
    result = run("--max-model-lem", "5")
    assert result.exit_code == 2
    assert "--max-model-len" in result.output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "page-size = 16\nmax-model-lem = 5\n",
            "server.toml:2: unknown setting 'max-model-lem'; did you mean 'max-model-len'?",
        ),
        ("page-size = 16\npage_size = 8\n", "is set twice"),
        ("block-size = 16\npage_size = 8\n", "is set twice"),
        ("[mesh]\npage-size = 16\n", "unknown setting 'mesh'"),
        ("[port]\nx = 16\n", "flat list"),
        ("page-size = \n", "not valid TOML"),
        ("host = 'x'\npage-size = 16.5\n", ":2: 'page-size' must be a whole number, not 16.5"),
        ("page-size = true\n", "'page-size' must be a whole number, not True"),
        ("page-size = [16]\n", "'page-size' must be a whole number, not [16]"),
        ("port = 2020-01-01\n", "'port' must be a whole number"),
        ("flexible-roles = 1\n", "'flexible-roles' must be true or false, not 1"),
        ("memory-fraction = '0.5'\n", "'memory-fraction' must be a number, not '0.5'"),
        ("memory-fraction = true\n", "'memory-fraction' must be a number, not True"),
        ("host = 5\n", "'host' must be a text, not 5"),
        ("served-model-name = [1]\n", "must be a text or a list of texts, not [1]"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place(tmp_path, text, problem):
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"server\.toml") as caught:
        read_config_file(file)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_of_a_wrong_type_is_not_shown(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text("api-key = 12345\n")
    with pytest.raises(ConfigError, match=r"'api-key' must be a text or a list of texts$"):
        read_config_file(file)


def test_one_text_in_a_file_is_a_list_of_one(tmp_path):
    (tmp_path / "server.toml").write_text('served-model-name = "one"\nmemory-fraction = 1\n')
    lines = shown("--config", str(tmp_path / "server.toml"))
    assert 'served-model-name = ["one"]' in lines
    assert "memory-fraction = 1.0" in lines


def test_a_variable_that_is_almost_a_settings_is_told():
    told = "FORETOKEN_PAGE_SIZ is no setting and has no effect; did you mean FORETOKEN_PAGE_SIZE?"
    others = ("PATH", "FORETOKEN_TRACES", "FORETOKEN_SESSIONS", "FORETOKEN_SERVICE_HOST")
    assert mistyped(["FORETOKEN_PAGE_SIZE", "FORETOKEN_PAGE_SIZ", *others]) == [told]


def test_a_refused_value_of_a_variable_names_it(monkeypatch, capsys):
    monkeypatch.setenv("FORETOKEN_PAGE_SIZE", "big")
    monkeypatch.setattr("sys.argv", ["foretoken", "serve", "x"])
    assert cli_run(cli) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith("'big' is not a valid integer. (from FORETOKEN_PAGE_SIZE)")


def test_the_file_may_be_named_by_a_variable(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FORETOKEN_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setattr("sys.argv", ["foretoken", "serve", "x"])
    assert cli_run(cli) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err


def test_an_absent_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(tmp_path / "none.toml")


def test_what_is_printed_starts_the_same_server(tmp_path):
    printed = shown("--prefill-workers", "1", "--decode-workers", "2", "--served-model-name", 'a"b')
    file = tmp_path / "printed.toml"
    file.write_text("\n".join(printed))
    assert shown("--config", str(file)) == printed


def test_secrets_are_masked():
    output = "\n".join(shown("--api-key", "hush", "--api-key", "still"))
    assert "hush" not in output
    assert "api-key is set" in output


ORIGINS = 'allowed-origins = ["http://a.example", "http://b.example:3000"]'


@pytest.mark.parametrize(
    "flags",
    [
        ["--allowed-origins", "http://a.example", "--allowed-origins", "http://b.example:3000"],
        ["--allowed-origins", '["http://a.example", "http://b.example:3000"]'],
    ],
    ids=["repeated", "as vLLM wants them"],
)
def test_origins_are_repeated_or_one_list(flags):
    assert ORIGINS in shown(*flags)


def test_origins_may_be_a_list_in_a_variable_and_in_a_file(tmp_path):
    listed = '["http://a.example", "http://b.example:3000"]'
    assert ORIGINS in shown(env={"FORETOKEN_ALLOWED_ORIGINS": listed})
    (tmp_path / "server.toml").write_text(ORIGINS)
    assert ORIGINS in shown("--config", str(tmp_path / "server.toml"))


@pytest.mark.parametrize("value", ['["http://a.example"', "[1]"])
def test_what_is_no_list_of_origins_is_named(value):
    result = run("--allowed-origins", value)
    assert result.exit_code == 2
    assert "--allowed-origins" in result.output


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--decode-workers", "0"], "--decode-workers"),
        (["--api-key", "good", "--api-key", ""], "an --api-key is empty or has spaces"),
        (["--api-key", " hush"], "an --api-key is empty or has spaces around it, and no client"),
        (["--step-timeout-seconds", "0"], "--step-timeout-seconds must be positive"),
        (["--step-timeout-seconds", "nan"], "--step-timeout-seconds must be positive"),
        (["--allowed-origins", "http://a.example/"], "--allowed-origins http://a.example/: an"),
        (["--allowed-origins", "a.example"], "--allowed-origins a.example: an origin is"),
        (["--prefill-workers", "-1"], "--prefill-workers"),
        (["--prefill-tp", "2"], "--prefill-tp has no effect"),
        (["--max-model-len", "1"], "--max-model-len"),
        (["--port", "70000"], "--port"),
        (["--root-path", "llm"], "--root-path llm must begin with / and not end with one"),
        (["--root-path", "/llm/"], "--root-path /llm/ must begin with / and not end with one"),
        (["--uvicorn-log-level", "loud"], "loud is unknown; use critical, error, warning, info,"),
        (["--dtype", "int3"], "--dtype int3 is unknown"),
        (["--quantize", "int4"], "--quantize int4 is unknown; use none, int8 or fp8"),
        (
            ["--tool-call-parser", "pythonic"],
            "--tool-call-parser pythonic is unknown; use auto, none, hermes, llama3_json or",
        ),
        (["--generation-config", "x"], "--generation-config x is unknown; use auto or none"),
        (
            ["--kv-cache-dtype", "int3"],
            "--kv-dtype int3 is unknown; use auto, bfloat16 or fp8",
        ),
        (["--memory-fraction", "1.5"], "--memory-fraction"),
        (["--max-num-batched-tokens", "0"], "--max-num-batched-tokens"),
    ],
)
def test_impossible_settings_are_named(flags, problem):
    result = run(*flags)
    assert isinstance(result.exception, ConfigError)
    assert problem in str(result.exception)


def test_messages_name_an_alias_where_that_was_typed():
    message = "--route-policy x: --route-policy-table, --prefill-workers"
    assert as_typed(message, ["--policy=x", "--pd_num_prefill", "2"]) == (
        "--policy x: --route-policy-table, --pd-num-prefill"
    )
    assert as_typed(message, ["--route_policy", "x", "--policy", "y"]) == message


def test_a_command_may_offer_some_parts_and_the_rest_keeps_its_defaults():
    @click.command()
    @part_options("batch", "costs")
    def some(**values):
        click.echo(describe(build_config("model-dir", values)))

    result = CliRunner().invoke(some, ["--max-num-seqs", "7", "--costs", "c.json"])
    lines = result.output.splitlines()
    assert "max-num-seqs = 7" in lines
    assert 'costs = "c.json"' in lines
    assert "page-size = 16" in lines
    assert CliRunner().invoke(some, ["--port", "1"]).exit_code == 2


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        ("cpu", (), (64, 256, 32, 16)),
        ("gpu", (), (256, 2048, 128, 16)),
        ("tpu", (), (256, 2048, 128, 128)),
        ("tpu", ("page_size", "max_num_seqs"), (64, 2048, 128, 16)),
    ],
)
def test_sizes_that_nobody_gave_suit_the_devices(platform, given, expected):
    config = suited(build_config("x", {}), platform, given)
    batch = config.batch
    sizes = (batch.max_num_seqs, batch.max_num_batched_tokens, batch.min_prefill_tokens)
    assert (*sizes, config.memory.page_size) == expected


def test_what_a_flag_a_variable_or_a_file_says_was_given(tmp_path: Path, monkeypatch):
    seen: list[Collection[str]] = []
    monkeypatch.setattr("serving.serve.run_server", lambda _, given: seen.append(given) or 0)
    monkeypatch.setenv("FORETOKEN_MAX_NUM_SEQS", "64")
    path = tmp_path / "server.toml"
    path.write_text("page-size = 16\n")
    command = ["serve", "x", "--config", str(path), "--max-num-batched-tokens", "256"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    (given,) = seen
    sizes = {"max_num_seqs", "page_size", "max_num_batched_tokens", "min_prefill_tokens"}
    assert sizes & set(given) == sizes - {"min_prefill_tokens"}
