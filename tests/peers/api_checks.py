"""What schemathesis is told beside its own checks: which refusals of a request that fits the description are right,
and to leave the key alone that it calls with.

Its check of such refusals, `positive_data_acceptance`, goes by the status alone. Where it is told to allow 400 for an
operation (tests/it/admin/schemathesis.rs says where and why), `refusals_are_foreseen` looks at what is refused.

Beside the file after `--config-file`, a file `operator.id` names the calling key.
"""

import pathlib
import sys

import schemathesis

# By operation, the fields that may be refused with 400 although the request fits the description.
UNFORESEEN = {
    # No description knows which users there are.
    "createKey": {"user_id"},
}
OPERATOR = pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1]).with_name("operator.id").read_text().strip()
NOBODY = "key_" + "0" * 32


@schemathesis.check
def refusals_are_foreseen(ctx, response, case):
    if response.status_code != 400 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    operation = case.operation.definition.raw.get("operationId")
    problem = response.json()
    assert problem["code"] == "invalid_field" and problem.get("field") in UNFORESEEN.get(operation, ()), problem


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Were the calling key replaced or ended, whatever comes after would be answered 401, and nothing be tried."""
    if case.method == "GET" or not case.path_parameters:
        return
    for name, value in case.path_parameters.items():
        if value in ("self", OPERATOR):
            case.path_parameters[name] = NOBODY
