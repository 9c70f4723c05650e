"""Print fresh prompts of every task family: `python -m train.tasks --n N --seed S`.

One JSON object per line with the keys `family`, `messages` and `answer`. A follow-up's messages
hold the earlier turns with their replies; the last message is always the user's. To score a reply,
compare `train.tasks.problem.extract_answer(reply)` with `answer`.
"""

import json

import click

from train.tasks.conversation import examples


@click.command()
@click.option("--n", "count", type=click.IntRange(min=1), required=True, help="Prompts per family.")
@click.option("--seed", type=int, required=True, help="Equal seeds print equal prompts.")
def main(count: int, seed: int) -> None:
    """Print COUNT prompts of every family as JSON lines."""
    for example in examples(count, seed):
        messages = [{"role": role, "content": content} for role, content in example.messages]
        line = {"family": example.family, "messages": messages, "answer": example.answer}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
