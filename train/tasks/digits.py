"""How are sums and products worked out one digit at a time?

Both write one line per digit, right to left: the sum of that column, then the part of the result
that is known so far. The carry is the tens digit of the line above, so each line needs only the
line above and the two numbers of the header. This file knows no phrasing and no problem.
"""


def sum_steps(left: int, right: int) -> str:
    """Work out `left + right`; the shorter number is padded with zeros so that columns align."""
    width = max(len(str(left)), len(str(right)))
    upper, lower = str(left).zfill(width), str(right).zfill(width)
    lines = [f"{upper}+{lower}\n"]
    carry, known = 0, ""
    for column in reversed(range(width)):
        total = int(upper[column]) + int(lower[column]) + carry
        known = (str(total) if column == 0 else str(total % 10)) + known
        lines.append(f"{upper[column]}+{lower[column]}+{carry}={total} so {known}\n")
        carry = total // 10
    return "".join(lines)


def row_steps(number: int, digit: int) -> str:
    """Work out `number * digit` for one digit from 1 to 9."""
    lines = [f"{number}*{digit}\n"]
    carry, known = 0, ""
    text = str(number)
    for column in reversed(range(len(text))):
        total = int(text[column]) * digit + carry
        known = (str(total) if column == 0 else str(total % 10)) + known
        lines.append(f"{text[column]}*{digit}+{carry}={total} so {known}\n")
        carry = total // 10
    return "".join(lines)
