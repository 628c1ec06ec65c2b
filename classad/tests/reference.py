"""Evaluates each line of the input with HTCondor's own ClassAds: reference.py FOLDER AD.

FOLDER holds the module; AD is the ad that names are looked up in. Prints a line for each: the value
in a form that does not depend on how a language writes numbers.
"""

import sys
import warnings

warnings.filterwarnings("ignore")
sys.path.insert(0, sys.argv[1])
import classad2


def form(value):
    if isinstance(value, classad2.Value):
        return "undefined" if value == classad2.Value.Undefined else "error"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"int {value}"
    if isinstance(value, float):
        return f"real {value:.11e}"
    if isinstance(value, str):
        return "text " + value.encode().hex()
    if isinstance(value, list):
        return "list"
    return "ad" if isinstance(value, classad2.ClassAd) else type(value).__name__


ad = classad2.ClassAd(sys.argv[2])
for line in sys.stdin:
    try:
        print(form(classad2.ExprTree(line.rstrip("\n")).eval(ad)))
    except Exception as error:  # whatever it is, it is what the reference says
        print(f"refused {type(error).__name__}")
