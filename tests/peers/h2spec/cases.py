"""How a case is written: `@case("generic/2/1", "what is sent")` before a function of a fresh connection."""

CASES = []


def case(number, title, *, handshake=True, strict=False):
    """Adds a case. `strict` marks what h2spec asks for only when told to, for the RFC says SHOULD."""

    def add(run):
        CASES.append((number, title, run, handshake, strict))
        return run

    return add


def fields(length=4000, count=1):
    """Fields that say nothing at some length."""
    return [(f"x-dummy{number}", "x" * length) for number in range(count)]
