"""The style sheet of the report page: light or dark by the reader's setting, good on paper and on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f8; --text: #1b1f24; --quiet: #57606a; --rule: #d8dee4;
  --passed: #116b32; --passed-back: #dcf5e3; --failed: #a40e26; --failed-back: #ffe5e7;
  --unknown: #7a4d00; --unknown-back: #fff1cf;
  --generated: #0b62c4; --copy_reference: #b3400c; --copy_nearest: #7a3fc0; --truth: #57606a;
  --run0: #57606a; --run1: #0b62c4; --run2: #b3400c; --run3: #7a3fc0; --run4: #0f766e; --run5: #a3195b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --panel: #1d2026; --text: #e6e8eb; --quiet: #a0a8b2; --rule: #343942;
    --passed: #7ee2a0; --passed-back: #12351f; --failed: #ff9ba3; --failed-back: #431a1f;
    --unknown: #f2c66d; --unknown-back: #3b2d0e;
    --generated: #6cb2ff; --copy_reference: #ff9d66; --copy_nearest: #c9a3ff; --truth: #a0a8b2;
    --run0: #a0a8b2; --run1: #6cb2ff; --run2: #ff9d66; --run3: #c9a3ff; --run4: #5fd0c4; --run5: #ff8fc0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .8rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; max-width: 75ch; }
.quiet { color: var(--quiet); }
.notes { font-size: .9rem; } .notes p { max-width: 95ch; }
.verdicts { list-style: none; margin: 1.5rem 0 0; padding: 0; display: grid; gap: .5rem; }
.verdicts li { display: flex; gap: .8rem; align-items: baseline; }
.badge {
  flex: none; width: 5.6rem; text-align: center; font-size: .82rem; font-weight: 600; border-radius: 999px;
  padding: .08rem 0;
}
.badge.passed { color: var(--passed); background: var(--passed-back); }
.badge.failed { color: var(--failed); background: var(--failed-back); }
.badge.unknown { color: var(--unknown); background: var(--unknown-back); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td {
  padding: .55rem .75rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap;
}
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
thead th { color: var(--quiet); font-weight: 600; font-size: .88rem; vertical-align: bottom; }
tbody th { font-weight: 400; }
table.figures td:nth-child(2), table.figures thead th:nth-child(2) {
  font-weight: 650; background: var(--panel); color: var(--text);
}
td small { display: block; color: var(--quiet); font-weight: 400; font-size: .8rem; }
figure { margin: 0 0 1.75rem; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
video, figure img { display: block; max-width: 100%; height: auto; border-radius: 8px; background: #181a1e; }
video { width: 100%; }
.legend {
  display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; margin: .2rem 0 .6rem; padding: 0;
}
.legend li { list-style: none; display: flex; align-items: center; gap: .5rem; }
.legend svg { width: 34px; height: 10px; }
svg.plot { width: 100%; min-width: 560px; max-width: 900px; height: auto; }
svg text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg path { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg circle { fill: currentColor; opacity: 0; }
svg circle:hover, svg circle.lone { opacity: 1; }
g.generated { color: var(--generated); } g.generated path { stroke-width: 3; }
g.copy_reference { color: var(--copy_reference); } g.copy_reference path { stroke-dasharray: 7 6; }
g.copy_nearest { color: var(--copy_nearest); } g.copy_nearest path { stroke-dasharray: 1 5; stroke-width: 3; }
g.truth { color: var(--truth); } g.truth path { stroke-dasharray: 12 4 1 4; }
g.run0 { color: var(--run0); } g.run1 { color: var(--run1); } g.run2 { color: var(--run2); }
g.run3 { color: var(--run3); } g.run4 { color: var(--run4); } g.run5 { color: var(--run5); }
g.run0 path { stroke-dasharray: 12 4 1 4; } g.run2 path { stroke-dasharray: 7 6; }
g.run3 path { stroke-dasharray: 1 5; stroke-width: 3; } g.run5 path { stroke-dasharray: 12 5; }
g path.whisker { stroke-dasharray: none; stroke-width: 3; opacity: .55; }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .4rem 2rem; }
.parts h3 { margin: .8rem 0 .1rem; } svg.intervals { width: 100%; height: auto; }
td small.better { color: var(--passed); } td small.worse { color: var(--failed); }
.alarm {
  margin: 1.5rem 0 0; padding: 1rem 1.25rem; border: 3px solid var(--failed); border-radius: 10px;
  color: var(--failed); background: var(--failed-back);
}
.alarm strong { font-size: 1.15rem; } .alarm ul { margin: .5rem 0 0; padding-left: 1.2rem; font-size: .9rem; }
.alarm li { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.5rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 1rem; }
details dl { margin-top: .6rem; }
summary { cursor: pointer; color: var(--quiet); }
summary:focus-visible, video:focus-visible { outline: 3px solid var(--generated); outline-offset: 2px; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
@media print { main { max-width: none; padding: 0; } video { display: none; } }
"""
