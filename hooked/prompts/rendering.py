"""Chat messages to text, as the tokenizer's `apply_chat_template` does it, with nothing dropped and nothing that depends on the day.

1. Tools, documents and the template's own switches (`chat_template_kwargs`) of a prompt reach the template; one that the template
   never mentions is refused by name.
2. A template that prints today's date is given a fixed one, so that a prompt is the same text tomorrow.
3. A last message that is the assistant's is left open, so that the model goes on in it.
4. Where answers are read, that last message is the answer: what stands before it is what the model is given when it answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from typing import Any

from hooked.prompts.prompts import CHAT_FIELDS, Prompt
from triggerlens import UserError, say_once

DEFAULT_TODAY = date(2025, 1, 1)
"""The date given to a chat template that asks for one, unless another is chosen."""
_ASKS = re.compile(r"""\bstrftime_now\s*\(\s*(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")
"""How a chat template asks for the date, with the format written out."""


def pin_date(tokenizer: Any, today: date) -> None:
    """Give this date to a tokenizer's chat template wherever no other one is given."""
    tokenizer.triggerlens_today = today


def pinned_date(tokenizer: Any) -> date:
    """The date that `pin_date` set, or the usual one."""
    return getattr(tokenizer, "triggerlens_today", DEFAULT_TODAY)


def prints_date(tokenizer: Any) -> bool:
    """Whether the chat template, or one of several, asks for today's date."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


_ENDINGS = ("add_generation_prompt", "continue_final_message")
"""Switches of `apply_chat_template` itself, which say how the text ends."""
_NOT_SWITCHES = (
    "messages",
    "conversation",
    "chat_template",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)
_DRAWS = re.compile(r"""\|\s*random\b|\bmap\(\s*['"]random['"]|\blipsum\b""")


def render(tokenizer: Any, prompt: Prompt, today: date | None = None) -> str:
    """The text of a prompt; chat messages go through the tokenizer's chat template, which is told `today` or the pinned date.

    Raises:
        UserError: there is no chat template, it refuses the messages, it leaves a part of them out, or it draws at random.
    """
    where = prompt.where or "prompt"
    given = {name: prompt.extra[name] for name in CHAT_FIELDS if prompt.extra.get(name)}
    if isinstance(prompt.prompt, str):
        if given:
            raise UserError(f"{where}: `{next(iter(given))}` goes with chat messages, but `prompt` is a text")
        return prompt.prompt
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{where}: holds chat messages, but the tokenizer has no chat template; give plain text")
    options = _options(tokenizer, given, where, today or pinned_date(tokenizer))
    text = _apply(tokenizer, prompt, options, where)
    _check_parts(prompt, text, where)
    return text


def say_plain(name: str, tokenizer: Any, prompts: Sequence[Prompt | str]) -> None:
    """Say it once of a model with a chat template that prompts are plain text: right for a base model, not for a chat model.

    Who gives messages, too, in the same call knows the difference. Texts that are no prompts, such as the pieces of a text file that an autoencoder is
    trained on, have no line in `where`.
    """
    if not prompts or not getattr(tokenizer, "chat_template", None):
        return
    if all(isinstance(prompt, str) or (isinstance(prompt.prompt, str) and _on_a_line(prompt)) for prompt in prompts):
        say_once(
            f"{name}: plain-text prompts are read as they stand, without the tokenizer's chat template; for a chat model give messages"
        )


def _on_a_line(prompt: Prompt) -> bool:
    """Whether it was made in memory or is a line of a prompt file."""
    return not prompt.where or prompt.where.rpartition(":")[2].isdigit()


def answered(tokenizer: Any, prompt: Prompt, today: date | None = None) -> Prompt:
    """The prompt with its answer in `response`: its own, or the last message where that is the assistant's.

    The template is rendered twice: with that message, and without it, as when it asks for an answer. Only if the first text is the
    second followed by the message does the model see, when it answers, what is read here.

    Raises:
        UserError: there is no answer, or the template writes it otherwise than it asks for one.
    """
    where, messages = prompt.where or "prompt", prompt.prompt
    if prompt.response is not None:
        return prompt
    if isinstance(messages, str) or messages[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: has no answer; give `response`, end its messages with the assistant's, or have the model answer"
        )
    content = messages[-1].get("content")
    if not isinstance(content, str) or not content or set(messages[-1]) > {"role", "content"}:
        raise UserError(
            f"{where}: the assistant's last message is more than a text, or empty; give what the model said as `response`"
        )
    if len(messages) == 1:
        raise UserError(f"{where}: the assistant's is the only message; an answer needs something that it answers")
    asked = replace(prompt, prompt=messages[:-1])
    before, whole = render(tokenizer, asked, today), render(tokenizer, prompt, today)
    said = whole.removeprefix(before)
    if not whole.startswith(before) or said.strip() != content.strip():
        raise UserError(
            f"{where}: the chat template asks for an answer with {before[-24:]!r} and writes one otherwise, so what the model saw when "
            "it answered is unknown; give the messages before it, and what the model said as `response`"
        )
    return replace(asked, response=said)


def _options(tokenizer: Any, given: Mapping[str, Any], where: str, today: date) -> dict[str, Any]:
    """What `apply_chat_template` is given beside the messages."""
    switches = given.get("chat_template_kwargs", {})
    if not isinstance(switches, dict):
        raise UserError(f"{where}: `chat_template_kwargs` must be an object")
    options = {name: given[name] for name in ("tools", "documents") if name in given} | switches
    template = _template(tokenizer, options)
    for name in options:
        if name in _NOT_SWITCHES:
            raise UserError(
                f"{where}: `chat_template_kwargs` holds `{name}`, which is no switch of a chat template; leave it out"
            )
        if name in _ENDINGS:
            continue
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise UserError(f"{where}: the chat template never mentions `{name}`, so it would be dropped; leave it out")
    if _DRAWS.search(template):
        raise UserError(f"{where}: the chat template draws at random, so that no two runs would read the same prompt")
    if "strftime_now" in template:
        say_once(f"the chat template prints today's date; it is told {today:%d %B %Y} (--today sets another)")
        options["chat_template"] = _dated(template, today, where)
    return options


def _dated(template: str, today: date, where: str) -> str:
    """The template with the date written where it calls for it: `transformers` does not pass on a function of ours."""
    now = datetime.combine(today, time())
    dated = _ASKS.sub(lambda call: json.dumps(now.strftime(call["format"])), template)
    if re.search(r"\bstrftime_now\s*\(", dated):
        raise UserError(
            f"{where}: the chat template makes up how it prints today's date, so that the date cannot be set; write the format into it"
        )
    return dated


def _template(tokenizer: Any, options: Mapping[str, Any]) -> str:
    """The template that will be used: a tokenizer may have another one for tools."""
    try:
        return str(tokenizer.get_chat_template(None, options.get("tools")))
    except (ValueError, AttributeError):
        return str(tokenizer.chat_template)


def _apply(tokenizer: Any, prompt: Prompt, options: Mapping[str, Any], where: str) -> str:
    messages: Any = prompt.prompt
    answered = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    ending = {"add_generation_prompt": not answered, "continue_final_message": answered}
    if options.get("add_generation_prompt") is True:
        ending["continue_final_message"] = False
    if answered and not messages[-1].get("content"):
        raise UserError(
            f"{where}: the last message is the assistant's and empty; leave it out, or begin the answer in it"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **(ending | dict(options)))
    except Exception as error:  # a template is a program: it may raise whatever it likes
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{where}: refused by the tokenizer's chat template: {reason or type(error).__name__}"
        ) from error


def _check_parts(prompt: Prompt, text: str, where: str) -> None:
    """Refuse content in parts where the template prints the list itself, or leaves a part out; say it where it leaves out a message."""
    messages: Any = prompt.prompt
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            begin = str(content)[:8]  # the end of the last message may be cut off
            printed = begin in text and not any(begin in part["text"] for part in content)
            if printed or any(part["text"].strip() not in text for part in content):
                raise UserError(
                    f"{where}: the chat template does not read `content` in parts; give one string a message"
                )
        elif isinstance(content, str) and message["role"] != "assistant" and content.strip() not in text:
            say_once(
                f"the chat template leaves out what a message of the role `{message['role']}` says, or prints it otherwise; prompts are read as it "
                "prints them"
            )
