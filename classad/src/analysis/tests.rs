use proptest::prelude::*;

use super::*;

fn ads(texts: &[&str]) -> Vec<Ad> {
    texts.iter().map(|text| Ad::parse(text).unwrap()).collect()
}

fn of(my: &str, requirements: &str, others: &[Ad]) -> Analysis {
    analyse(Some(&Ad::parse(my).unwrap()), &Expr::parse(requirements).unwrap(), others, 10_000)
}

#[test]
fn a_job_that_wants_too_much_is_told_what_would_help() {
    let nodes = ads(&[
        r#"[ Arch = "X86_64"; Memory = 4096; Cpus = 4; HasGpu = false ]"#,
        r#"[ Arch = "X86_64"; Memory = 2048; Cpus = 8; HasGpu = false ]"#,
        r#"[ Arch = "ARM64"; Memory = 16384; Cpus = 8 ]"#,
        r#"[ Arch = "X86_64"; Memory = "much"; Cpus = 16; HasGpu = true ]"#,
    ]);
    let found = of(
        "[ RequestMemory = 8 * 1024; Fits = TARGET.Memory >= RequestMemory && 2 < TARGET.Cpus ]",
        r#"(Arch == "x86_64" && MY.Fits) && !HasGpu"#,
        &nodes,
    );
    let counts: Vec<_> = found
        .parts
        .iter()
        .map(|it| (it.expr.to_string(), [it.holds, it.fails, it.undefined, it.error], it.alone))
        .collect();
    assert_eq!(
        counts,
        [
            (r#"Arch == "x86_64""#.to_owned(), [3, 1, 0, 0], 0),
            ("TARGET.Memory >= RequestMemory".to_owned(), [1, 2, 0, 1], 2),
            ("2 < TARGET.Cpus".to_owned(), [4, 0, 0, 0], 0),
            ("!HasGpu".to_owned(), [2, 1, 1, 0], 0),
        ]
    );
    assert_eq!((found.ads, found.matching), (4, 0));
    let memory = found.parts[1].suggestion.as_ref().unwrap();
    assert_eq!(memory.subject.to_string(), "TARGET.Memory");
    assert_eq!(memory.instead_of.to_string(), "RequestMemory");
    assert_eq!((memory.comparison, &memory.value), (Comparison::GreaterEqual, &Value::Int(4096)));
    assert_eq!((&memory.now, memory.holds, memory.matching), (&Value::Int(8192), 2, 1));
    let arch = found.parts[0].suggestion.as_ref().unwrap();
    assert_eq!((&arch.value, arch.holds, arch.matching), (&Value::from("ARM64"), 1, 0));
    assert_eq!(found.parts[2].suggestion, None);
    let relaxations: Vec<_> =
        found.relaxations.iter().map(|it| (&it.parts[..], it.matching)).collect();
    assert_eq!(relaxations, [(&[1, 3][..], 3), (&[1][..], 2), (&[0, 3][..], 1)]);
}

#[test]
fn those_that_do_not_want_the_job_are_counted() {
    let nodes = ads(&["[ Requirements = TARGET.Owner == \"me\" ]", "[ Requirements = u ]", "[]"]);
    let found = of("[ Owner = \"me\" ]", "true", &nodes);
    assert_eq!((found.matching, found.unwilling), (3, 1));
}

#[test]
fn what_stands_for_itself_and_what_is_long_ends() {
    let found = of("[ a = b && true; b = a && x ]", "a && a", &ads(&["[ x = true ]"]));
    assert!(found.parts.len() <= 8, "{:?}", found.parts);
    let many = vec!["x > 1"; 1000].join(" && ");
    let found = of("[]", &many, &ads(&["[ x = 1 ]", "[ x = 2 ]"]));
    assert_eq!((found.parts.len(), found.matching), (MAX_PARTS, 1));
    // Each attribute holds the next one twice.
    let twice: String = (0..9).map(|at| format!("a{at} = a{0} && a{0}; ", at + 1)).collect();
    let found = of(&format!("[ {twice} a9 = x > 1 ]"), "a0", &ads(&["[ x = 2 ]"]));
    assert_eq!((found.parts.len(), found.matching), (MAX_PARTS, 1));
}

fn part() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["x", "y", "TARGET.z", "MY.w", "q"]);
    let operator = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!=", "=?="]);
    let value = prop::sample::select(vec!["1", "2.5", "3", "\"a\"", "\"B\"", "w", "true", "y"]);
    prop_oneof![
        4 => (name.clone(), operator.clone(), value.clone())
            .prop_map(|(name, operator, value)| format!("{name} {operator} {value}")),
        2 => (name.clone(), operator, value).prop_map(|(name, operator, value)| format!("({value} {operator} {name})")),
        1 => name.prop_map(str::to_owned),
    ]
}

fn node() -> impl Strategy<Value = String> {
    let value = || {
        prop::sample::select(vec!["0", "1", "2", "2.5", "4", "\"a\"", "\"b\"", "true", "undefined"])
    };
    (value(), value(), value()).prop_map(|(x, y, z)| format!("[ x = {x}; y = {y}; z = {z} ]"))
}

proptest! {
    #[test]
    fn what_is_said_is_what_happens(
        parts in prop::collection::vec(part(), 1..6),
        nodes in prop::collection::vec(node(), 0..12),
    ) {
        let my = Ad::parse("[ w = 2; q = x > w && y < 3 ]").unwrap();
        let nodes: Vec<Ad> = nodes.iter().map(|text| Ad::parse(text).unwrap()).collect();
        let found = analyse(Some(&my), &Expr::parse(&parts.join(" && ")).unwrap(), &nodes, 10_000);
        let count = |expr: &Expr| {
            nodes.iter().filter(|ad| Scope::of(&my).with_target(ad).eval(expr).is_true()).count()
        };
        let without = |left: &[usize], more: Option<Expr>| {
            let rest = found.parts.iter().enumerate().filter(|(at, _)| !left.contains(at));
            let all = rest.map(|(_, part)| Expr::new(Node::Group(part.expr.clone()))).chain(more);
            Expr::new(Node::All(all.collect()))
        };
        prop_assert_eq!(found.matching, count(&without(&[], None)));
        for relaxation in &found.relaxations {
            prop_assert_eq!(relaxation.matching, count(&without(&relaxation.parts, None)));
            prop_assert!(relaxation.matching > found.matching);
        }
        for (place, part) in found.parts.iter().enumerate() {
            prop_assert_eq!(part.holds, count(&part.expr));
            prop_assert_eq!(part.holds + part.fails + part.undefined + part.error, nodes.len());
            prop_assert_eq!(found.matching + part.alone, count(&without(&[place], None)));
            let Some(it) = &part.suggestion else { continue };
            let text = format!("({} {} {})", it.subject, it.comparison.mark(), it.value);
            let changed = Expr::parse(&text).unwrap();
            prop_assert_eq!(it.holds, count(&changed), "{} instead of {}", text, part.expr);
            prop_assert_eq!(it.matching, count(&without(&[place], Some(changed))), "{}", text);
        }
    }
}

#[test]
fn without_an_ad_of_ones_own_names_are_those_of_each_ad() {
    let nodes =
        ads(&["[ Memory = 4096; Half = Memory / 2 ]", "[ Memory = 1024; Half = Memory / 2 ]"]);
    let asked = Expr::parse("MY.Memory >= 2048 && Half >= 4000").unwrap();
    let found = analyse(None, &asked, &nodes, 10_000);
    let holds: Vec<_> = found.parts.iter().map(|part| part.holds).collect();
    assert_eq!((holds, found.matching), (vec![1, 0], 0));
    let suggestion = found.parts[1].suggestion.as_ref().unwrap();
    assert_eq!((&suggestion.value, suggestion.matching), (&Value::Int(2048), 1));
    // Too few steps: whatever takes more is an ERROR.
    let found = analyse(None, &asked, &nodes, 1);
    assert!(found.parts.iter().all(|part| part.holds == 0));
}

#[test]
fn names_that_are_looked_up_are_told_once() {
    let names = |text: &str| Expr::parse(text).unwrap().names().join(" ");
    assert_eq!(
        names("Memory > 2 && memory < TARGET.Cpus || (MY.a.b[C] ?: .d)"),
        "Memory Cpus a C d"
    );
    assert_eq!(names("f({x, 1}, y ? [z = q] : -w)"), "x y w");
}
