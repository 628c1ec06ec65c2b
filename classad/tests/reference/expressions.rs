//! Expressions to compare: those written here and those that dice make.

/// A small generator of numbers, so that a seed gives the same expressions for ever (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

const ATOMS: [&str; 56] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "64",
    "3.5",
    "0.0",
    "1e3",
    "-2.25",
    "\"a\"",
    "\"A\"",
    "\"abc\"",
    "\"\"",
    "\"10\"",
    "\"a,b, c\"",
    "\"1.5x\"",
    "true",
    "false",
    "undefined",
    "error",
    "a",
    "b",
    "s",
    "t",
    "u",
    "m",
    "Memory",
    "Arch",
    "zz",
    "n.c",
    "n.d",
    "n.a",
    "n.m",
    "l[0]",
    "l[1]",
    "l[9]",
    "{1,2,3}",
    "{}",
    "{\"a\",\"B\"}",
    "n",
    "l",
    "arch",
    "MY.a",
    "MY.n.d",
    "TARGET.a",
    ".a",
    "ads[1].x",
    "span",
    "moment",
    "relTime(5)",
    "absTime(86400,3600)",
    "ads",
    "n[\"c\"]",
    "9223372036854775807",
    "-9223372036854775808",
];
const BINARY: [&str; 24] = [
    "+", "-", "*", "/", "%", "==", "!=", "=?=", "=!=", "is", "isnt", "<", "<=", ">", ">=", "&&",
    "||", "&", "|", "^", "<<", ">>>", ">>", "-",
];

const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "-8",
    "10",
    "2.5",
    "-2.5",
    "0.5",
    "1e10",
    "true",
    "\"4\"",
    "\"2.5kg\"",
    "a",
    "b",
    "m",
    "86400",
    "3661",
];
const TEXTS: [&str; 24] = [
    "\"\"",
    "\"a\"",
    "\"A\"",
    "\"abc\"",
    "\"ABC abc\"",
    "\"x86_64\"",
    "\"1.2.3\"",
    "\"1.10\"",
    "\"1.09\"",
    "\"9.0.1\"",
    "\"a b\"",
    "\" a\"",
    "\"slot1@host\"",
    "\"user@example.org@x\"",
    "\"true\"",
    "\"10 MB\"",
    "\"-3.5e2\"",
    "\"it's\"",
    "\"b\"",
    "s",
    "Arch",
    "\"abcabc\"",
    "\"\\t\"",
    "\"aXbXc\"",
];
const STRING_LISTS: [&str; 14] = [
    "\"a,b,c\"",
    "\"1,2,3\"",
    "\"1.5, 2\"",
    "\"\"",
    "\"b, a\"",
    "\"A B\"",
    "\"a;b\"",
    "\"3,1,2\"",
    "\"a,,b,\"",
    "\" a , c \"",
    "\"10,x\"",
    "\"a\"",
    "\"1 2;3\"",
    "\"abc,abd\"",
];
const LISTS: [&str; 16] = [
    "{}",
    "{1,2,3}",
    "{1,2.5}",
    "{\"a\",\"B\"}",
    "{u,1}",
    "{true,0}",
    "{a,b,m}",
    "l",
    "{\"ab\",\"b\"}",
    "{1,\"a\"}",
    "{3}",
    "{2.5,1,true}",
    "{error,1}",
    "{{1},{2}}",
    "{n.a, n.c}",
    "{\"a\",u}",
];
const PATTERNS: [&str; 16] = [
    "\"a\"",
    "\"^a\"",
    "\"b$\"",
    "\"A.C\"",
    "\"(\"",
    "\"[a-c]+\"",
    "\"(a)(b)?\"",
    "\"x*y\"",
    "\"\\\\d+\"",
    "\"^$\"",
    "\"a|b\"",
    "\"(b)\"",
    "\"a b\"",
    "\"\\\\.\"",
    "\"c.*\"",
    "\"zzz\"",
];
const OPTIONS: [&str; 8] = ["\"\"", "\"i\"", "\"f\"", "\"g\"", "\"fg\"", "\"imsx\"", "\"q\"", "u"];
const REPLACEMENTS: [&str; 8] = [
    "\"\"",
    "\"-\"",
    "\"<\\\\0>\"",
    "\"\\\\1\"",
    "\"\\\\2\"",
    "\"\\\\x\"",
    "\"\\\\1\\\\1\"",
    "\"a\"",
];
const TIMES: [&str; 16] = [
    "moment",
    "span",
    "absTime(\"2021-03-04T05:06:07+02:00\")",
    "absTime(0,0)",
    "absTime(951782400,-3600)",
    "absTime(1e9)",
    "relTime(90061)",
    "relTime(-3661)",
    "relTime(59.5)",
    "relTime(-0.5)",
    "relTime(1e6)",
    "0",
    "1e9",
    "1234567890",
    "splitTime(86399)",
    "absTime(4000000000.5)",
];
const FORMATS: [&str; 10] = [
    "\"%c\"",
    "\"%Y-%m-%dT%H:%M:%S\"",
    "\"%a %A %b %B %e %j\"",
    "\"%I:%M %p %l %k\"",
    "\"%U %W %V %G %g %u %w\"",
    "\"%D %F %T %R %r %x %X %y %C %%\"",
    "\"%q %E %O %\"",
    "\"\"",
    "\"%n%t%s%Ey%Od%h%P\"",
    "5",
];
const WORDS: [&str; 12] = [
    "\"A=1\"",
    "\"A=1 B='x y'\"",
    "\"A=1;B=2\"",
    "\"A\"",
    "\"\"",
    "\"a 'b c' d''e\"",
    "\"a 'b\"",
    "u",
    "\"A='it''s'\"",
    "\" A=1 \"",
    "\"Z=1 A=\"",
    "\"=1\"",
];

const OPERATORS: [&str; 10] = [
    "\"<\"", "\"<=\"", "\"==\"", "\"!=\"", "\">\"", "\">=\"", "\"is\"", "\"isnt\"", "\"=?=\"", "u",
];

/// What an argument may be: a letter for each kind.
fn argument(dice: &mut Dice, kind: char) -> String {
    // Now and then something else.
    if kind != 'd' && dice.roll(12) == 0 {
        return dice.pick(&ATOMS).to_owned();
    }
    let from: &[&str] = match kind {
        'n' => &NUMBERS,
        't' => &TEXTS,
        's' => &STRING_LISTS,
        'l' => &LISTS,
        'p' => &PATTERNS,
        'o' => &OPTIONS,
        'r' => &REPLACEMENTS,
        'm' => &TIMES,
        'f' => &FORMATS,
        'w' => &WORDS,
        'c' => &OPERATORS,
        'd' => &["\",\"", "\";\"", "\" \"", "\";,\"", "\"\""],
        'v' => &["1", "2", "3"],
        'i' => &["0", "1", "2", "-1", "-2", "5", "-9", "99"],
        'q' => &["{1,5,9}", "2", "2.5", "0", "{}", "{2.5,\"7\"}", "-3"],
        'x' => &["x", "x == 1", "x + a", "a", "x >= Memory", "u", "y", "true", "x && true"],
        'k' => &["ads", "{[x=1],[x=a]}", "{}", "{[x=1], 5, u}", "n", "u", "{[x=n], [x=Memory]}"],
        'e' => {
            &["\"a + 1\"", "\"zz\"", "\"1 +\"", "\"n.d\"", "s", "a", "\"\\\"x\\\"\"", "u", "{1}"]
        }
        'g' => &["a", "m", "zz", "s", "b", "Memory", "u", "n.c"],
        _ => &ATOMS,
    };
    dice.pick(from).to_owned()
}

/// Every function with the kinds of its arguments.
const FUNCTIONS: [(&str, &str); 112] = [
    ("isUndefined", "a"),
    ("isError", "a"),
    ("isString", "a"),
    ("isInteger", "a"),
    ("isReal", "a"),
    ("isBoolean", "a"),
    ("isList", "a"),
    ("isClassAd", "a"),
    ("isAbsTime", "m"),
    ("isRelTime", "m"),
    ("int", "a"),
    ("int", "t"),
    ("int", "m"),
    ("real", "a"),
    ("real", "t"),
    ("real", "m"),
    ("bool", "a"),
    ("bool", "m"),
    ("string", "a"),
    ("string", "m"),
    ("string", "l"),
    ("floor", "n"),
    ("ceil", "n"),
    ("ceiling", "n"),
    ("round", "n"),
    ("pow", "nn"),
    ("pow", "nn"),
    ("quantize", "nq"),
    ("quantize", "nn"),
    ("interval", "n"),
    ("interval", "m"),
    ("toUpper", "t"),
    ("toLower", "t"),
    ("toUpper", "a"),
    ("size", "a"),
    ("size", "t"),
    ("size", "l"),
    ("strcat", "tt"),
    ("strcat", "ta"),
    ("strcat", "aln"),
    ("join", "dl"),
    ("join", "ttt"),
    ("join", "l"),
    ("join", "ta"),
    ("substr", "ti"),
    ("substr", "tii"),
    ("strcmp", "tt"),
    ("stricmp", "tt"),
    ("strcmp", "ta"),
    ("split", "t"),
    ("split", "s"),
    ("split", "sd"),
    ("splitUserName", "t"),
    ("splitSlotName", "t"),
    ("versioncmp", "tt"),
    ("versionEQ", "tt"),
    ("versionLT", "tt"),
    ("versionLE", "tt"),
    ("versionGT", "tt"),
    ("versionGE", "ta"),
    ("version_in_range", "ttt"),
    ("regexp", "pt"),
    ("regexp", "pto"),
    ("regexpMember", "pl"),
    ("regexpMember", "plo"),
    ("regexps", "ptr"),
    ("regexps", "ptro"),
    ("replace", "ptr"),
    ("replace", "ptro"),
    ("replaceAll", "ptr"),
    ("replaceAll", "ptro"),
    ("member", "al"),
    ("member", "tl"),
    ("identicalMember", "al"),
    ("identicalMember", "nl"),
    ("anyCompare", "clt"),
    ("anyCompare", "cln"),
    ("allCompare", "cln"),
    ("allCompare", "cla"),
    ("sum", "l"),
    ("avg", "l"),
    ("min", "l"),
    ("max", "l"),
    ("stringListSize", "s"),
    ("stringListSize", "sd"),
    ("stringListSum", "s"),
    ("stringListAvg", "s"),
    ("stringListMin", "s"),
    ("stringListMax", "s"),
    ("stringListSum", "sd"),
    ("stringListMember", "ts"),
    ("stringListIMember", "tsd"),
    ("stringListSubsetMatch", "ss"),
    ("stringListISubsetMatch", "ssd"),
    ("stringListsIntersect", "ss"),
    ("stringListsIntersect", "ssd"),
    ("stringList_regexpMember", "ps"),
    ("stringList_regexpMember", "psdo"),
    ("ifThenElse", "aaa"),
    ("eval", "e"),
    ("unparse", "g"),
    ("evalInEachContext", "xk"),
    ("countMatches", "xk"),
    ("debug", "a"),
    ("envV1ToV2", "w"),
    ("mergeEnvironment", "ww"),
    ("argsToList", "w"),
    ("argsToList", "wv"),
    ("listToArgs", "l"),
    ("formatTime", "mf"),
    ("splitTime", "m"),
    ("getDays", "m"),
];
const FIELDS: [&str; 8] = [
    "getYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
];

fn call(dice: &mut Dice) -> String {
    if dice.roll(30) == 0 {
        return format!("{}({})", dice.pick(&FIELDS), argument(dice, 'm'));
    }
    let (name, kinds) = FUNCTIONS[dice.roll(FUNCTIONS.len())];
    let arguments: Vec<String> = kinds.chars().map(|kind| argument(dice, kind)).collect();
    format!("{name}({})", arguments.join(", "))
}

pub fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 {
        return dice.pick(&ATOMS).to_owned();
    }
    let part = |dice: &mut Dice| expression(dice, depth - 1);
    match dice.roll(100) {
        0..22 => dice.pick(&ATOMS).to_owned(),
        22..55 => {
            let (left, operator) = (part(dice), dice.pick(&BINARY));
            // Not always in parentheses, so that precedence shows.
            let (open, close) = if dice.roll(2) == 0 { ("(", ")") } else { ("", "") };
            format!("{open}{left} {operator} {}{close}", part(dice))
        }
        55..62 => format!("{}{}", dice.pick(&["-", "!", "~", "+", "- "]), part(dice)),
        62..67 => format!("({} ? {} : {})", part(dice), part(dice), part(dice)),
        67..70 => format!("({} ?: {})", part(dice), part(dice)),
        70..72 => format!("{{{}, {}}}[{}]", part(dice), part(dice), dice.pick(&["0", "1", "2"])),
        72..74 => format!("[q = {}; a = 5; r = q].{}", part(dice), dice.pick(&["q", "r", "zz"])),
        _ => call(dice),
    }
}
