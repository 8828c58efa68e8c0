"""The style sheet of the page: phone, desk, paper; light and dark."""

STYLE = """
:root {
  color-scheme: light;
  --page: #ffffff; --ink: #1a1f26; --soft: #596373; --rule: #d3d9e1;
  --panel: #f4f6f8; --mark: #0b5fa5; --heat: 8 64 120; --on-heat: #ffffff;
  --train: #6b7280; --dev: #b45309; --test: #0b5fa5; --warn: #fff3d6;
  --warn-rule: #b7791f;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --page: #12161b; --ink: #e6e9ee; --soft: #a0abb9; --rule: #36404c;
    --panel: #1b2128; --mark: #77b7f2; --heat: 125 185 245; --on-heat: #0c1116;
    --train: #a3acb8; --dev: #f0a35c; --test: #77b7f2; --warn: #382b10;
    --warn-rule: #d9a441;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem;
  background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 {
  font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-top: .6rem;
  border-top: 1px solid var(--rule);
}
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .4rem 0; max-width: 44rem; }
a { color: var(--mark); }
.soft, caption, figcaption { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: .9rem 0; }
.warning {
  background: var(--warn); border-left: 4px solid var(--warn-rule);
  padding: .6rem .9rem; max-width: none;
}
.notes { padding-left: 1.2rem; font-size: .9rem; max-width: 44rem; }
.notes li { margin: .25rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; padding: 0 0 .35rem; }
th, td { padding: .32rem .7rem; text-align: right; vertical-align: baseline; }
th { font-weight: 600; }
thead th { font-size: .85rem; color: var(--soft); vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.results small, thead small { display: block; font-weight: 400; }
.results td small { color: var(--soft); font-size: .82rem; }
.results b { font-size: 1.15rem; }
.results caption, .confusion caption { color: var(--ink); font-weight: 600; }
.recall thead th { max-width: 9rem; }
.results th, .results td { white-space: nowrap; }
.results thead th { white-space: normal; }
.long td { white-space: nowrap; }
.long th[scope=colgroup] { text-align: center; }
.long .first { border-left: 1px solid var(--rule); }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
.scroll:focus-visible { outline: 2px solid var(--mark); }
.grid-of { display: grid; gap: 1.4rem 2rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.level { align-items: end; }
.charts > * { max-width: 30rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .9rem; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
.axes text { font-size: 12px; fill: var(--soft); }
.axes .name { fill: var(--ink); font-weight: 600; }
.axes .grid { stroke: var(--rule); stroke-width: 1; }
.axes .tick { stroke: var(--soft); stroke-width: 1; }
.train { --c: var(--train); } .dev { --c: var(--dev); }
.test { --c: var(--test); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.line.train { stroke-dasharray: 2 2; } .line.dev { stroke-dasharray: 7 3; }
.band { fill: var(--c); opacity: .18; }
.dot { fill: var(--c); }
.dots { stroke: var(--mark); stroke-width: 4; stroke-linecap: round;
  stroke-opacity: .22; }
.bubble { fill: var(--mark); fill-opacity: .45; stroke: var(--mark); }
.equal { stroke: var(--soft); stroke-dasharray: 4 4; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 .6rem;
  padding: 0; list-style: none; font-size: .9rem; }
.legend svg { width: 28px; height: 10px; margin-right: .4rem; }
.confusion { width: 100%; max-width: 34rem; table-layout: fixed; }
.confusion th, .confusion td { padding: .25rem .1rem; text-align: center; }
.confusion tbody th { text-align: right; padding-right: .5rem; }
.confusion thead th:first-child, .confusion tbody th { width: 5.2rem; }
.confusion thead th { height: 5.2rem; }
.confusion thead th span { writing-mode: vertical-rl; transform: rotate(180deg); }
.confusion thead th:first-child span { writing-mode: inherit; transform: none; }
.confusion tbody tr { border: 0; }
.confusion td {
  background: rgb(var(--heat) / var(--share)); border: 1px solid var(--page);
  line-height: 1.15; font-size: .9rem;
}
.confusion td small { display: block; font-size: .72rem; opacity: .85; }
.confusion td.strong { color: var(--on-heat); }
.confusion td.none { color: var(--soft); }
.bar { display: block; height: .45rem; margin: .15rem 0 0 auto; width: 7rem; max-width: 22vw;
  background: linear-gradient(to right, var(--mark) var(--share),
    var(--rule) var(--share)); }
.cells th, .cells td { text-align: right; white-space: nowrap; }
.cells th:first-child, .cells .why { text-align: left; }
.cells tbody th { font-weight: 400; vertical-align: top; white-space: normal;
  min-width: 6rem; position: sticky; left: 0; background: var(--page); }
.cells tbody { border-top: 1px solid var(--rule); }
.cells tbody tr { border-top: 0; }
.cells small { display: block; color: var(--soft); font-size: .82rem;
  font-weight: 400; }
.cells .why { color: var(--soft); white-space: normal; vertical-align: top; }
.cells .why span { display: block; max-width: 16rem; }
.cells caption { color: var(--ink); font-weight: 600; }
.differing td { min-width: 5.5rem; max-width: 16rem; overflow-wrap: break-word;
  text-align: left; }
.differing th { text-align: left; }
.verdict small { white-space: normal; max-width: 12rem; margin-left: auto; }
.verdict::before { display: inline-block; width: .55em; height: .55em;
  margin-right: .35em; border-radius: 50%; content: ""; background: var(--soft); }
.within::before { background: var(--mark); }
.above::before, .below::before { background: var(--warn-rule); }
.forest .label { font-size: 12px; fill: var(--ink); }
.forest .whisker { stroke: var(--test); stroke-width: 2; }
.forest .ring { fill: none; stroke: var(--dev); stroke-width: 2; }
.probes small { display: block; color: var(--soft); font-weight: 400; }
.probes tbody th { font-weight: 600; }
.probes .bar { position: relative; }
.probes .bar i { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px;
  background: var(--ink); }
.kind0 { --c: light-dark(#0b5fa5, #77b7f2); }
.kind1 { --c: light-dark(#c2570c, #f0a35c); }
.kind2 { --c: light-dark(#2e7d32, #7ccf8a); }
.kind3 { --c: light-dark(#b3261e, #f08a80); }
.kind4 { --c: light-dark(#6b4fbb, #b9a5f5); }
.kind5 { --c: light-dark(#00808c, #6fd6df); }
.kind6 { --c: light-dark(#c2458f, #f2a0cf); }
.kind7 { --c: light-dark(#6b7000, #c9d15a); }
.kind8 { --c: light-dark(#8a5a2b, #d0a57a); }
.kind9 { --c: light-dark(#1a1f26, #e6e9ee); }
.kind10 { --c: var(--soft); }
.filled { fill: var(--c); }
.dotted { stroke: var(--c); stroke-width: 5; stroke-linecap: round;
  stroke-opacity: .5; }
.ringed { fill: none; stroke: var(--c); stroke-width: 1.8; }
.frame { fill: none; stroke: var(--rule); }
.globe { fill: none; stroke: var(--soft); stroke-opacity: .75; }
.globe.behind { stroke-dasharray: 2 4; stroke-opacity: .5; }
.dotted.behind { stroke-opacity: .22; }
.regions .key { width: 12px; height: 12px; }
.legend .key { width: 12px; height: 12px; }
.facts { width: 100%; }
.facts th, .facts td { text-align: left; font-size: .9rem; }
.facts th { width: 14rem; font-weight: 400; color: var(--soft); }
.facts td { overflow-wrap: anywhere; }
pre {
  background: var(--panel); padding: .8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, Consolas, monospace;
}
summary { cursor: pointer; margin: .4rem 0; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 34rem) {
  body { padding: 1rem .8rem 3rem; }
  th, td { padding: .3rem .45rem; font-size: .88rem; }
  .confusion td { font-size: .8rem; } .confusion td small { font-size: .68rem; }
  .confusion th { font-size: .8rem; }
  .confusion thead th:first-child, .confusion tbody th { width: 4.4rem; }
  .facts th { width: 9.5rem; }
  .bar { max-width: 16vw; } .recall thead th { font-size: .72rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3, caption { break-after: avoid; }
  table, figure, .legend, pre { break-inside: avoid; }
  table.long, table.facts { break-inside: auto; }
  .scroll { overflow: visible; }
  .scroll th, .scroll td { padding: .15rem .35rem; font-size: 8.5pt;
    white-space: normal; min-width: 0; }
  .scroll tbody th { overflow-wrap: anywhere; }
  .scroll th small, .scroll td small { font-size: 7.5pt; }
  .bar { max-width: 8vw; }
  details::details-content { content-visibility: visible; }
  td, .bar, .warning, svg {
    print-color-adjust: exact; -webkit-print-color-adjust: exact;
  }
}
"""
