"""Evaluates each line of the input with HTCondor's own ClassAds: reference.py FOLDER AD TARGET.

FOLDER holds the module; AD is the ad that names are looked up in, TARGET the other ad of a match.
A line is a kind, a tab and a text: `eval` an expression; `match` one as AD's Requirements; `old` an ad in
the old syntax, its line ends and backslashes escaped. Prints a line for each: a value in a form that
does not depend on how a language writes numbers, whether TARGET does and both match, or the ad as it is
written in the old syntax again.
"""

import os
import re
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ.update(CONDOR_CONFIG="ONLY_ENV", TZ="UTC")
sys.path.insert(0, sys.argv[1])
# With it come the functions of job files.
import htcondor2  # noqa: F401
import classad2
from datetime import datetime


def form(value):
    if isinstance(value, classad2.Value):
        return "undefined" if value == classad2.Value.Undefined else "error"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"int {value}"
    if isinstance(value, float):
        return f"real {value:.11e}".replace("-nan", "nan")
    if isinstance(value, str):
        return "text " + value.encode("utf-8", "surrogateescape").hex()
    if isinstance(value, datetime):
        return f"time {int(value.timestamp())}"
    if isinstance(value, list):
        return "list(" + ", ".join(form(item) for item in value) + ")"
    return "ad" if isinstance(value, classad2.ClassAd) else type(value).__name__


def evaluated(text):
    try:
        expr = classad2.ExprTree(text)
    except Exception:
        return "refused"
    try:
        return form(expr.eval(ad))
    except UnicodeDecodeError:
        return "not text"
    except Exception:
        return "error"


def matched(text):
    my = classad2.ClassAd(sys.argv[2])
    try:
        my["Requirements"] = classad2.ExprTree(text)
    except Exception:
        return "refused"
    return f"{target.matches(my)} {target.symmetricMatch(my)}"


def old(text):
    try:
        return "ad " + classad2.parseOne(text, classad2.ParserType.Old).printOld().encode().hex()
    except Exception:
        return "refused"


ad = classad2.ClassAd(sys.argv[2])
target = classad2.ClassAd(sys.argv[3])
kinds = {"eval": evaluated, "match": matched, "old": old}
for line in sys.stdin:
    kind, _, text = line.rstrip("\n").partition("\t")
    if kind == "old":
        text = re.sub(r"\\(.)", lambda it: "\n" if it[1] == "n" else it[1], text)
    print(kinds[kind](text))
