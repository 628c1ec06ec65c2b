//! Grids and jobs as files: comma-separated values under one line of headings.

use std::fmt;

use super::Arrival;
use crate::{Grid, GridNode, Job};

/// Longer files are refused: nothing of that size is simulated.
pub const MOST_ROWS: usize = 2_000_000;
/// A number is not written longer than this.
const MOST_DIGITS: usize = 64;
const GRID: [&str; 6] = ["node", "site", "flops_per_s", "bw_Bps", "lat_s", "trunk_Bps"];
const JOBS: [&str; 4] = ["job", "arrival_s", "flops", "bytes"];

/// Why a file cannot be used: where, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The file's name.
    pub file: String,
    /// The line, the headings being the first.
    pub line: usize,
    /// What is wrong there, and what to do.
    pub what: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for Malformed {}

/// Reads the nodes of a grid: `node,site,flops_per_s,bw_Bps,lat_s,trunk_Bps`, nodes numbered from 0,
/// sites -1 in a star. Columns may stand in any order.
///
/// # Errors
/// When a column is missing, a value is not a number at least 0, nodes are not numbered one after
/// the other, or lines of one site differ on its trunk.
pub fn read_grid(file: &str, text: &str) -> Result<Grid, Malformed> {
    let mut grid = Grid::default();
    each_row(file, text, &GRID, |row| {
        row.numbered(0, grid.nodes.len())?;
        let site = row.number(1)?;
        let site = if site == -1.0 { None } else { Some(row.whole(1, MOST_ROWS)? as u32) };
        let trunk = row.amount(5)?;
        if let Some(site) = site {
            let place = site as usize;
            // A site that is never named has no trunk, and no nodes.
            if place >= grid.trunks.len() {
                grid.trunks.resize(place + 1, f64::NAN);
            }
            if grid.trunks[place].is_nan() {
                grid.trunks[place] = trunk;
            } else if grid.trunks[place] != trunk {
                let other = grid.trunks[place];
                return Err(format!(
                    "trunk_Bps is {trunk}, lines above say {other} for site {site}: a site has one \
                     trunk, make them the same"
                ));
            }
        }
        let [flops_per_s, bytes_per_s, latency_s] =
            [row.amount(2)?, row.amount(3)?, row.amount(4)?];
        grid.nodes.push(GridNode { flops_per_s, bytes_per_s, latency_s, site });
        Ok(())
    })?;
    Ok(grid)
}

/// Reads jobs: `job,arrival_s,flops,bytes`, numbered from 0, in order of their arrival.
///
/// # Errors
/// When a column is missing, a value is not a number at least 0, jobs are not numbered one after the
/// other, or one comes before the one above it.
pub fn read_jobs(file: &str, text: &str) -> Result<Vec<Arrival>, Malformed> {
    let mut jobs: Vec<Arrival> = Vec::new();
    each_row(file, text, &JOBS, |row| {
        row.numbered(0, jobs.len())?;
        let job = Job { flops: row.amount(2)?, bytes: row.amount(3)? };
        let at = row.amount(1)?;
        if jobs.last().is_some_and(|last| last.at > at) {
            return Err(format!(
                "arrival_s is {at}, before the line above: sort the jobs by arrival"
            ));
        }
        jobs.push(Arrival::new(at, job));
        Ok(())
    })?;
    Ok(jobs)
}

/// One line, by the columns that were asked for.
struct Row<'a> {
    columns: &'a [&'a str],
    cells: Vec<&'a str>,
}

impl Row<'_> {
    fn number(&self, column: usize) -> Result<f64, String> {
        let (name, cell) = (self.columns[column], self.cells[column]);
        let number = cell.parse::<f64>().ok().filter(|number| number.is_finite());
        let shown: String = cell.chars().take(MOST_DIGITS).collect();
        number.filter(|_| cell.len() <= MOST_DIGITS).ok_or_else(|| {
            format!("{name} is {shown:?}, not a finite number: write one such as 1000 or 0.5")
        })
    }

    fn amount(&self, column: usize) -> Result<f64, String> {
        let number = self.number(column)?;
        if number >= 0.0 {
            return Ok(number);
        }
        Err(format!("{} is {number}: it cannot be below 0", self.columns[column]))
    }

    fn whole(&self, column: usize, below: usize) -> Result<usize, String> {
        let number = self.number(column)?;
        if number >= 0.0 && number.fract() == 0.0 && number < below as f64 {
            return Ok(number as usize);
        }
        let name = self.columns[column];
        Err(format!("{name} is {number}: it has to be a whole number from 0 to {}", below - 1))
    }

    fn numbered(&self, column: usize, expected: usize) -> Result<(), String> {
        if self.whole(column, MOST_ROWS)? == expected {
            return Ok(());
        }
        let (name, cell) = (self.columns[column], self.cells[column]);
        Err(format!("{name} is {cell}, expected {expected}: number them from 0, without gaps"))
    }
}

fn each_row(
    file: &str,
    text: &str,
    columns: &[&str],
    mut each: impl FnMut(&Row<'_>) -> Result<(), String>,
) -> Result<(), Malformed> {
    let malformed = |line, what| Malformed { file: file.to_owned(), line, what };
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let headings = lines.next().map(|(_, line)| line).unwrap_or_default();
    let headings: Vec<&str> = headings.split(',').map(str::trim).collect();
    let place = |column: &&str| {
        headings.iter().position(|heading| heading == column).ok_or_else(|| {
            let what =
                format!("the column {column} is missing: the headings are {}", columns.join(","));
            malformed(1, what)
        })
    };
    let places = columns.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let mut rows = 0;
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        rows += 1;
        if rows > MOST_ROWS {
            let what = format!("more than {MOST_ROWS} lines: split the file");
            return Err(malformed(index + 1, what));
        }
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if cells.len() != headings.len() {
            let what = format!(
                "{} values under {} headings: give each heading one",
                cells.len(),
                headings.len()
            );
            return Err(malformed(index + 1, what));
        }
        let cells = places.iter().map(|place| cells[*place]).collect();
        each(&Row { columns, cells }).map_err(|what| malformed(index + 1, what))?;
    }
    if rows == 0 {
        return Err(malformed(1, "no lines under the headings: give it at least one".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let grid = |rows: &str| {
            let text = format!("{}\n{rows}", GRID.join(","));
            read_grid("plat.csv", &text).unwrap_err().to_string()
        };
        assert!(grid("").starts_with("plat.csv, line 1: no lines"));
        assert_eq!(
            grid("0,-1,1,1,0,0\n2,-1,1,1,0,0"),
            "plat.csv, line 3: node is 2, expected 1: number them from 0, without gaps"
        );
        assert_eq!(
            grid("0,-1,NaN,1,0,0"),
            "plat.csv, line 2: flops_per_s is \"NaN\", not a finite number: write one such as 1000 \
             or 0.5"
        );
        assert!(grid("0,-1,1,-1,0,0").ends_with("bw_Bps is -1: it cannot be below 0"));
        assert!(grid("0,-1,1,1,0").contains("5 values under 6 headings"));
        assert!(grid("0,0.5,1,1,0,9").contains("whole number"));
        assert!(grid("0,1e9,1,1,0,9").contains("whole number"));
        assert!(grid("0,0,1,1,0,9\n1,0,1,1,0,8").contains("one trunk"));
        let missing = read_jobs("jobs.csv", "job,arrival_s,flops\n0,0,1").unwrap_err().to_string();
        assert!(missing.starts_with("jobs.csv, line 1: the column bytes is missing"), "{missing}");
        let unsorted = "job,arrival_s,flops,bytes\n0,2,1,1\n1,1,1,1\n";
        assert!(read_jobs("jobs.csv", unsorted).unwrap_err().to_string().contains("sort the jobs"));
    }

    #[test]
    fn columns_may_stand_in_any_order() {
        let text = "bytes,flops,job,arrival_s\r\n4,3,0,2\r\n\r\n";
        let expected = Arrival::new(2.0, Job { flops: 3.0, bytes: 4.0 });
        assert_eq!(read_jobs("jobs.csv", text), Ok(vec![expected]));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(node|site|,|-1|0|1|2|\n|e9|é|NaN| |flops_per_s|bw_Bps|lat_s|trunk_Bps){0,60}") {
            let _ = read_grid("plat.csv", &text);
            let _ = read_grid("plat.csv", &format!("{}\n{text}", GRID.join(",")));
            let _ = read_jobs("jobs.csv", &format!("{}\n{text}", JOBS.join(",")));
        }
    }
}
