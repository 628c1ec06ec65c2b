//! Ads to compare, in the old syntax.

use crate::expressions::{Dice, expression};

/// Strings as the old syntax has them.
const STRINGS: [&str; 10] = [
    r#""plain""#,
    r#""""#,
    r#""C:\Windows\""#,
    r#""C:\tmp\new""#,
    r#""say \"hello\"""#,
    r#""\\server\share""#,
    r#""it's""#,
    r#""a=b; c""#,
    r#""50% of 1,2""#,
    r#""\"""#,
];

/// Lines as job queues have them.
const LINES: [&str; 16] = [
    "MyType = \"Job\"",
    "ClusterId = 4711",
    "Requirements = (TARGET.Arch == \"X86_64\") && (TARGET.OpSys == \"LINUX\") && (TARGET.Disk >= RequestDisk)",
    "RequestDisk = DiskUsage",
    "RequestMemory = ifthenelse(MemoryUsage =!= undefined,MemoryUsage,(ImageSize + 1023) / 1024)",
    "Rank = 0.0",
    "OnExitRemove = true",
    "PeriodicHold = JobStatus == 2 && (time() - EnteredCurrentStatus) > 86400",
    "Environment = \"A=1 B='x y'\"",
    "# a remark",
    "  LeaveJobInQueue = false  ",
    "Start = ((KeyboardIdle > 15 * 60) && (LoadAvg - CondorLoadAvg) <= 0.3) || State isnt \"Owner\"",
    "Slots = { [ Id = 1; Name = \"a\" ],[ Id = 2 ] }",
    "ImageSize=1000",
    "DiskUsage = 2.5E3",
    "Tiny = 1.0E-7",
];

/// An ad in the old syntax: lines of job queues, strings, and expressions that dice make.
pub fn old(dice: &mut Dice) -> String {
    let mut lines = vec!["Name = \"one\"".to_owned()];
    for number in 0..1 + dice.roll(8) {
        lines.push(match dice.roll(4) {
            0 => dice.pick(&LINES).to_owned(),
            1 => format!("S{number} = {}", dice.pick(&STRINGS)),
            2 => format!("S{number} = {} == {}", dice.pick(&STRINGS[..1]), dice.pick(&STRINGS)),
            _ => {
                let expr = expression(dice, 2);
                // What is written `- 1` the reference writes as `-1`, which is something else. Of an ad with a mistake the reference gives what comes before it.
                let is_one = !expr.contains("- ") && phantom_classad::Expr::parse(&expr).is_ok();
                format!("E{number} = {}", if is_one { &expr } else { "undefined" })
            }
        });
    }
    lines.join("\n")
}

/// Something that a job may require of the other ad.
pub fn requirements(dice: &mut Dice) -> String {
    let name = |dice: &mut Dice| {
        dice.pick(&[
            "TARGET.Memory",
            "Memory",
            "MY.Memory",
            "TARGET.Arch",
            "Arch",
            "HasGpu",
            "TARGET.Idle",
            "a",
            "TARGET.a",
            "MY.a",
            "zz",
            "TARGET.n.c",
            "n.c",
            "TARGET.Share",
            "Share",
            "TARGET.Wants",
        ])
        .to_owned()
    };
    let literal = |dice: &mut Dice| {
        dice.pick(&[
            "1024",
            "2048",
            "4096",
            "\"x86_64\"",
            "\"ARM\"",
            "true",
            "2.5",
            "undefined",
            "1",
            "0",
            "3",
        ])
        .to_owned()
    };
    let part = |dice: &mut Dice| match dice.roll(6) {
        0 => name(dice),
        1 => format!("!{}", name(dice)),
        _ => {
            let operator = dice.pick(&["<", "<=", ">", ">=", "==", "!=", "=?=", "=!="]);
            let right = if dice.roll(4) == 0 { name(dice) } else { literal(dice) };
            format!("{} {operator} {right}", name(dice))
        }
    };
    let parts: Vec<String> = (0..1 + dice.roll(4)).map(|_| part(dice)).collect();
    parts.join(dice.pick(&[" && ", " || ", " && "]))
}
