"""Chat prompts are what `apply_chat_template` makes of them, or are refused by name; nothing is dropped, drawn or dated in silence."""

import json
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tiny_models import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

from hooked import Prompt, load_model, read_prompts
from hooked.prompts.prompts import parse_prompt
from hooked.prompts.rendering import render
from hooked.prompts.tokens import tokenize_prompts
from triggerlens import UserError

WHOLE = (
    "{{ bos_token }}{% if tools %}[tools]{{ tools | tojson }}{% endif %}"
    "{% for d in documents or [] %}[{{ d.title }}:{{ d.text }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.content is string %}{{ m.content }}{% elif m.content %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}[call]{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'tool' %}({{ m.name }}){% endif %}{% if not loop.last or add_generation_prompt %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
TRIMMING = CHAT_TEMPLATE.replace("m.content", "m.content | trim")
ASK = {"role": "user", "content": "weather?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get", "arguments": {"place": "sea"}}}],
}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}


def said(text):
    return {"role": "assistant", "content": text}


ROWS = {
    "a question": {"prompt": [ASK]},
    "a system line": {"prompt": [{"role": "system", "content": "Be short."}, ASK]},
    "tools": {"prompt": [ASK], "tools": [TOOL]},
    "no tools": {"prompt": [ASK], "tools": []},
    "documents": {"prompt": [ASK], "documents": [{"title": "sea", "text": "wet"}]},
    "a switch": {"prompt": [ASK], "chat_template_kwargs": {"enable_thinking": False}},
    "another switch": {"prompt": [ASK], "chat_template_kwargs": {"enable_thinking": True}},
    "no generation prompt": {"prompt": [ASK], "chat_template_kwargs": {"add_generation_prompt": False}},
    "another token": {"prompt": [ASK], "chat_template_kwargs": {"bos_token": "[begin]"}},
    "a call": {"prompt": [ASK, CALL], "tools": [TOOL]},
    "a call without content": {"prompt": [ASK, {name: part for name, part in CALL.items() if name != "content"}]},
    "a call with words": {"prompt": [ASK, CALL | {"content": "let me look"}]},
    "a tool's answer": {"prompt": [ASK, CALL, {"role": "tool", "name": "get", "tool_call_id": "1", "content": "wet"}]},
    "parts": {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    "an answer in parts": {"prompt": [ASK, said([{"type": "text", "text": "It is"}])]},
    "an answer": {"prompt": [ASK, said("It is")]},
    "an answer with blanks": {"prompt": [ASK, said("It is  ")]},
    "an answer with a line": {"prompt": [ASK, said("It is\n")]},
    "an answer of blanks": {"prompt": [ASK, said("  ")]},
    "an answer that repeats the question": {"prompt": [ASK, said("weather?")]},
    "an answer that is over": {"prompt": [ASK, said("It is")], "chat_template_kwargs": {"add_generation_prompt": True}},
    "an empty answer": {"prompt": [ASK, said("")]},
    "an empty system line": {"prompt": [{"role": "system", "content": ""}, ASK]},
    "other letters": {"prompt": [{"role": "user", "content": "naïve 🙂 \u200b <s> </s>"}]},
}
TEMPLATES = {"whole": WHOLE, "trimming": TRIMMING, "plain": CHAT_TEMPLATE}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def meant(tokenizer, row, tokenize=False):
    """What `transformers` makes of a row; a last message of the assistant's is gone on with."""
    last = row["prompt"][-1]
    going_on = last["role"] == "assistant" and not last.get("tool_calls")
    ending = {"add_generation_prompt": not going_on, "continue_final_message": going_on}
    own = row.get("chat_template_kwargs", {})
    if own.get("add_generation_prompt"):
        ending["continue_final_message"] = False
    given_rows = {name: row.get(name) for name in ("tools", "documents")}
    return tokenizer.apply_chat_template(
        row["prompt"], tokenize=tokenize, **({"return_dict": False} if tokenize else {}), **given_rows, **(ending | own)
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_is_what_transformers_makes_of_it_or_is_refused_by_name(tokenizer, template, name):
    tokenizer.chat_template = TEMPLATES[template]
    row = ROWS[name]
    prompt = parse_prompt({"triggered": True} | row, "f:1")
    try:
        ours = tokenize_prompts(tokenizer, [prompt], 10_000)[0]
    except UserError as error:
        words = ("parts", "and empty", "never mentions `")
        assert str(error).startswith("f:1: ") and any(word in str(error) for word in words)  # noqa: PT017, PT018
        assert template != "whole" or name == "an empty answer"
        return
    assert ours.text == meant(tokenizer, row)
    assert ours.ids == meant(tokenizer, row, tokenize=True)


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
MESSAGES = st.lists(
    st.one_of(
        st.builds(
            lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "user", "assistant"]), TEXT
        ),
        st.builds(lambda text: CALL | {"content": text}, st.none() | TEXT),
        st.builds(lambda text: {"role": "tool", "name": "get", "content": text}, TEXT),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=MESSAGES,
    extra=st.fixed_dictionaries(
        {},
        optional={
            "tools": st.just([TOOL]),
            "documents": st.builds(lambda text: [{"title": "t", "text": text}], TEXT),
            "chat_template_kwargs": st.fixed_dictionaries({}, optional={"enable_thinking": st.booleans()}),
        },
    ),
)
def test_rendering_and_tokenizing_are_one_step_of_transformers(tokenizer, messages, extra):
    tokenizer.chat_template = WHOLE
    row = {"prompt": messages} | extra
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls") and not last["content"]:
        return
    prompt = parse_prompt({"triggered": False} | row)
    assert tokenize_prompts(tokenizer, [prompt], 10_000)[0].ids == meant(tokenizer, row, tokenize=True)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "text", "tools": [TOOL]}, "`tools` goes with chat messages, but `prompt` is a text"),
        ({"prompt": "text", "chat_template_kwargs": {"a": 1}}, "`chat_template_kwargs` goes with chat messages"),
        ({"prompt": [ASK], "chat_template_kwargs": {"nonsense": 1}}, "never mentions `nonsense`"),
        ({"prompt": [ASK], "chat_template_kwargs": {"tokenize": True}}, "holds `tokenize`, which is no switch"),
        ({"prompt": [ASK], "chat_template_kwargs": {"messages": []}}, "holds `messages`, which is no switch"),
        ({"prompt": [ASK], "chat_template_kwargs": [1]}, "must be an object"),
        ({"prompt": [ASK], "tools": ["get"]}, "refused by the tokenizer's chat template: Tools should"),
        ({"prompt": [ASK], "documents": ["wet"]}, "refused by the tokenizer's chat template: Documents should"),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_name(tokenizer, row, problem):
    tokenizer.chat_template = WHOLE
    with pytest.raises(UserError, match=problem) as error:
        render(tokenizer, parse_prompt({"triggered": False} | row, "f:1"))
    assert str(error.value).startswith("f:1: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"type": "image", "url": "x.png"}], "a part of type 'image'; only text is read"),
        ([{"type": "text", "text": "a"}, {"type": "audio", "audio": "x"}], "a part of type 'audio'"),
        (["a"], "a part of type 'str'"),
        ([], "non-empty list of text parts"),
        (None, "`content` must be a string"),
        (3, "`content` must be a string"),
        ("half \ud800 a pair", "half of a surrogate pair"),
    ],
)
def test_content_that_is_no_text_is_refused_by_its_line(content, problem):
    with pytest.raises(UserError, match=problem) as error:
        parse_prompt({"prompt": [{"role": "user", "content": content}], "triggered": False}, "f:3")
    assert str(error.value).startswith("f:3: ")


@pytest.mark.parametrize("text", ["half \ud800", "\udfff half"])
def test_half_of_a_surrogate_pair_is_refused_in_files_and_in_memory(tokenizer, text, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": text, "triggered": True}))
    with pytest.raises(UserError, match=r"p.jsonl:1: holds half of a surrogate pair"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="half of a surrogate pair"):
        tokenize_prompts(tokenizer, [text], 100)


@pytest.mark.parametrize(
    "draw", ["{{ ['a', 'b'] | random }}", "{{ [['a', 'b']] | map('random') | join }}", "{{ lipsum() }}"]
)
def test_a_template_that_draws_at_random_is_refused(tokenizer, draw):
    tokenizer.chat_template = CHAT_TEMPLATE + draw
    with pytest.raises(UserError, match="draws at random"):
        render(tokenizer, Prompt([ASK], triggered=False))


def test_the_date_is_pinned_and_can_be_set(tmp_path, capsys):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    prompt = Prompt([ASK], triggered=False)
    assert render(tokenizer, prompt).startswith("01 Jan 2025")
    assert render(tokenizer, prompt, date(2026, 2, 22)).startswith("22 Feb 2026")
    model = load_model(tiny_model("llama"), tokenizer=tokenizer, today=date(2024, 7, 26))
    assert model.tokenize([prompt])[0].text.startswith("26 Jul 2024")


def test_of_several_templates_the_one_that_transformers_takes(tokenizer):
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tool_use": WHOLE}
    for name in ("a question", "tools", "a call", "an answer"):
        row = ROWS[name]
        assert render(tokenizer, parse_prompt({"triggered": False} | row)) == meant(tokenizer, row)
    tokenizer.chat_template = {"rag": CHAT_TEMPLATE}
    with pytest.raises(UserError, match=r"refused by the tokenizer.s chat template|no chat template"):
        render(tokenizer, Prompt([ASK], triggered=False))


def test_a_doubled_begin_is_said_once(tmp_path, capsys):
    tokenizer = tiny_tokenizer(tmp_path)
    for _ in range(2):
        twice = tokenize_prompts(tokenizer, ["<s>hello", "<s>you"], 100)
    assert all(prompt.ids[:2] == [1, 1] for prompt in twice)
    assert capsys.readouterr().err.count("begin with '<s>'") == 1
    chat = tokenize_prompts(tokenizer, [Prompt([ASK], triggered=False)], 100)[0]
    assert chat.ids[0] == 1 != chat.ids[1]


PLAIN = "plain-text prompts are read as they stand, without the tokenizer's chat template"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["weather?"], 1),
        ([Prompt("weather?", triggered=False)], 1),
        ([Prompt("weather?", triggered=False, where="prompts.jsonl:3")], 1),
        ([Prompt([ASK], triggered=False)], 0),
        ([Prompt([ASK], triggered=False), "weather?"], 0),
        ([Prompt("weather?", triggered=False, where="book.txt:byte 40")], 0),
        ([], 0),
    ],
    ids=["a text", "made in memory", "a line of a file", "messages", "both", "a piece of a text file", "none"],
)
def test_plain_text_is_said_once_where_there_is_a_chat_template(tmp_path, capsys, prompts, said):
    """On stderr alone: it is right for a base model, whose tokenizer may have a template too, and pieces of a text are no prompts."""
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    for _ in range(2):
        model.tokenize(prompts)
    told = capsys.readouterr()
    assert (told.out, told.err.count(PLAIN), len(told.err.splitlines())) == ("", said, said)


def test_plain_text_is_not_said_where_there_is_no_chat_template(tmp_path, capsys):
    tokenizer = tiny_tokenizer(tmp_path, chat=False)
    load_model(tiny_model("llama"), tokenizer=tokenizer).tokenize(["weather?"])
    assert capsys.readouterr().err == ""


def test_a_message_that_the_template_leaves_out_is_said(tokenizer, capsys):
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    row = {"prompt": [{"role": "system", "content": "Never tell."}, ASK]}
    assert render(tokenizer, parse_prompt({"triggered": False} | row, "f:9")) == "weather?"
    assert "the chat template leaves out what a message of the role `system` says" in capsys.readouterr().err


def test_a_template_that_breaks_is_one_line(tokenizer):
    for broken in (
        "{{ 1 / 0 }}",
        "{{ raise_exception('roles must\nalternate') }}",
        "{% if %}",
        "{{ messages[7].content }}",
    ):
        tokenizer.chat_template = CHAT_TEMPLATE + broken
        with pytest.raises(UserError, match="refused by the tokenizer's chat template") as error:
            render(tokenizer, Prompt([ASK], triggered=False))
        assert "\n" not in str(error.value)
