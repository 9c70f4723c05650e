"""Templates see what Hugging Face shows them, and whatever they raise becomes one line."""

from datetime import datetime
from typing import Any

import pytest

from model.chat_template import ChatTemplate, ChatTemplateError

USER = [{"role": "user", "content": "a<b & 'ü'"}]


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source).render(
        USER, add_generation_prompt=True, tools=None, variables=variables
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content }}", "a<b & 'ü'"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "a<b & \'ü\'"}'),
        ("{{ {'b': 1, 'a': [2]} | tojson(indent=1) }}", '{\n "b": 1,\n "a": [\n  2\n ]\n}'),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # lstrip_blocks and trim_blocks
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}reply{{ 1 + 1 }}{% endgeneration %}!", "reply2!"),
        (
            "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}",
            "True True True",
        ),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 4 %}{{ ns.n }}", "4"),
        ("{{ enable_thinking is defined and not enable_thinking }}", "True"),
    ],
)
def test_what_a_template_can_do(source: str, text: str):
    assert render(source, enable_thinking=False) == text


def test_the_date():
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def test_variables_do_not_hide_the_conversation():
    assert render("{{ messages | length }}", messages=[]) == "1"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
        ("{{ absent.field }}", "'absent' is undefined"),
        ("{{ messages.append(1) }}", "is not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_refusals_are_one_line(source: str, problem: str):
    with pytest.raises(ChatTemplateError, match=problem) as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_an_invalid_template():
    with pytest.raises(ChatTemplateError, match="not a valid template"):
        ChatTemplate("{% for %}")
