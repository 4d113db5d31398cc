"""Tables of results: the records of runs beside one another, and beside published figures.

    python report.py                                         what lies in results/
    python report.py experiment=lines_table2                 a published table, cell by cell (config/experiment)
    python report.py experiment=demo_vision output=table.md  also .tex, .csv, and .html: one page of all that there is
    python report.py model=ViT-B-32 method=ties,sum          records of these alone
    python report.py rows=model columns=method figure=normalised

experiment=NAME     the table of an experiment; num_tasks=8 and other options leave out what differs; seeds=[0,1,2] as it ran
results_dir=FOLDER  where the records are; default: results
output=A.md,B.html  files to write, by their endings .md, .tex, .csv, .html; default: the terminal
rows=, columns=     fields that rows and columns have: method, model, task, tasks, coefficient, or any of a record's, as
                    config.method.k; default: rows=method columns=task
figure=merged       what a cell shows: merged, normalised, zeroshot, finetuned, megabytes, seconds, coefficient, ...
--config-dir=FOLDER with experiment/NAME.yaml in it, for experiment=NAME
lineages=FILE       a manifest that names the models and data of these results, as of the runs (config/lineage.yaml)
FIELD=A,B           only records whose field has one of these values
"""

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line

# isort: split
import sys

from command_line.console import run_script
from command_line.report_request import Request, write_report


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    write_report(Request.of(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(run_script(main))
