"""Style sheet of the page: light, dark, phone and print."""

from __future__ import annotations

from .names import TONES

LIGHT = f"""
  --paper: #fdfdfb; --raised: #f5f4ef; --ink: #1c1d20; --soft: #5b5e66; --rule: #dcdad2; --grid: #e7e5de;
  --accent: #1d54a8; --good: #12744f; --bad: #b3392f; color-scheme: light;
  {" ".join(f"--m{place}: {tone};" for place, tone in enumerate(TONES))}
"""
DARK = """
  --paper: #14161a; --raised: #1d2026; --ink: #e7e6e2; --soft: #a2a5ad; --rule: #353941; --grid: #292d34;
  --accent: #86b4ff; --good: #5fd0a0; --bad: #f08a7e; color-scheme: dark;
  --m0: #9aa0aa; --m1: #eb9049; --m2: #4f8df5; --m3: #3dbb9f; --m4: #b48ce4; --m5: #d0b640; --m6: #6ec1ee;
  --m7: #dd7099;
"""
BODY = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 Charter, "Iowan Old Style", "Source Serif 4", Cambria, Georgia, "Liberation Serif", serif; }
main { max-width: 1150px; margin: 0 auto; padding: 56px 28px 72px; }
p, blockquote, ul, ol, dl, figure { margin: 0; }
h1, h2, h3, th, .kind, .meta, .stat, .by, td, summary, figcaption, dt, dd, .notes, .note, .texts, footer {
  font-family: "Inter", "Source Sans 3", -apple-system, "Segoe UI", Roboto, "Liberation Sans", system-ui, sans-serif; }
h1 { font-size: 2.25rem; line-height: 1.15; letter-spacing: -0.02em; font-weight: 700; margin: 0 0 10px; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; line-height: 1.3; margin: 60px 0 8px; padding-top: 18px;
  border-top: 1px solid var(--rule); }
h3 { font-size: 0.92rem; margin: 0 0 4px; font-weight: 600; }
.lead { max-width: 76ch; text-wrap: pretty; color: var(--soft); margin-bottom: 20px; }
.meta { color: var(--soft); font-size: 0.84rem; display: flex; flex-wrap: wrap; gap: 2px 20px; list-style: none;
  padding: 0; margin-bottom: 26px; }
.meta b { color: var(--ink); font-weight: 600; }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.stats { display: grid; grid-template-columns: repeat(auto-fit, minmax(225px, 1fr)); gap: 14px; }
.stat { background: var(--raised); border-radius: 10px; padding: 14px 18px 15px; font-size: 0.8rem;
  color: var(--soft); line-height: 1.45; }
.stat strong { display: block; font-size: 2rem; line-height: 1.25; color: var(--accent); letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.stat strong small { display: block; line-height: 1.3; font-size: 0.85rem; letter-spacing: 0;
  font-weight: 500; color: var(--soft); }
.stat ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0 13px; }
.stat li { white-space: nowrap; } .stat b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.stat em { font-style: normal; color: var(--ink); font-weight: 600; font-size: 0.86rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
thead th { font-size: 0.78rem; line-height: 1.3; color: var(--soft); vertical-align: bottom; }
thead tr:first-child th { border-top: 2px solid var(--ink); padding-bottom: 1px; color: var(--ink); }
thead tr:last-child th { padding-top: 1px; font-weight: 500; border-bottom: 1px solid var(--ink); }
th[scope=colgroup] { text-align: center; }
tbody th, thead tr:first-child th:first-child { text-align: left; padding-left: 2px; }
thead th[rowspan] { border-bottom: 1px solid var(--ink); padding-bottom: 7px !important; }
tbody th, thead tr:first-child th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
tr.chance > * { color: var(--soft); font-weight: 400; border-top: 1px solid var(--ink) !important; }
thead.one th { border-bottom: 1px solid var(--ink) !important; padding: 6px 9px !important; color: var(--ink);
  font-weight: 600 !important; }
.dense td, .dense th { padding-left: 4px !important; padding-right: 5px !important; } .dense .ci { font-size: 0.64rem; }
.dense :is(td, th):last-child { padding-right: 11px !important; }
tr.ruled > * { border-top: 1px solid var(--ink) !important; }
td b { font-weight: 700; } td.none { color: var(--soft); }
td { line-height: 1.3; }
.ci { display: block; font-size: 0.7rem; color: var(--soft); font-weight: 400; }
.by-figure td { padding-top: 4px; padding-bottom: 4px; }
.by-figure .ci { display: inline-block; min-width: 5.6em; margin-left: 8px; }
sup { font-size: 0.6rem; line-height: 0; margin-right: -0.75em; position: relative; left: 1px; }
.stat sup { margin-right: 0.2em; }
sup.better { color: var(--good); } sup.worse { color: var(--bad); }
.tag { font-size: 0.68rem; font-weight: 500; color: var(--soft); border: 1px solid var(--rule); border-radius: 4px;
  padding: 0 4px; margin-left: 5px; vertical-align: 1px; }
.tag.warn { color: var(--bad); border-color: currentColor; }
.notes { list-style: none; padding: 0; font-size: 0.78rem; line-height: 1.5; color: var(--soft); margin-top: 9px;
  max-width: 100ch; }
.data td, .data th { vertical-align: top; } .data th[scope=col], .data td { text-align: left; }
.data td.text { white-space: normal; min-width: 34ch; color: var(--soft); line-height: 1.45; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 8px;
  background: var(--c, transparent); }
.note { font-size: 0.86rem; color: var(--soft); margin-top: 10px; max-width: 82ch; }
svg text { font-family: "Liberation Sans", Arial, Helvetica, Roboto, sans-serif; }
.chart svg { display: block; height: auto; } .chart svg * { stroke-linejoin: round; }
.narrow-chart { display: none; } .narrow-chart svg { max-width: 100%; }
.m0 { --c: var(--m0); } .m1 { --c: var(--m1); } .m2 { --c: var(--m2); } .m3 { --c: var(--m3); }
.m4 { --c: var(--m4); } .m5 { --c: var(--m5); } .m6 { --c: var(--m6); } .m7 { --c: var(--m7); }
.store { position: absolute; }
.pic { background: #fff; border-radius: 8px; display: block; padding: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 20px; }
.card { background: var(--raised); border-radius: 12px; padding: 18px; break-inside: avoid; min-width: 0; }
.asked { display: flex; gap: 16px; align-items: flex-start; margin-bottom: 12px; }
.asked > div { min-width: 0; }
.asked .pic { width: 88px; height: 88px; flex: none; }
.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.plain { padding: 14px 18px; font-size: 0.8rem; } .plain h3 { font-size: 0.95rem; margin-bottom: 6px; }
.plain dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 1px 14px; line-height: 1.5; }
.plain dt { color: var(--soft); } .plain dd { margin: 0; overflow-wrap: anywhere; }
.truth { font: 600 1rem/1.3 inherit; font-weight: 600; } .small .asked { margin-bottom: 6px; }
.errors th[scope=row] { background: var(--raised); } .errors td { white-space: normal; }
.errors td:nth-child(2), .errors th:nth-child(2) { text-align: left; }
.errors th, .errors td { border: 0 !important; padding: 3px 8px 3px 2px; font-size: 0.8rem; }
.twins { display: flex; gap: 12px; align-items: flex-start; } .twins .pic { width: 84px; height: 84px; }
.twins figcaption { text-align: center; font-size: 0.75rem; color: var(--soft); }
.twins ol { padding-left: 1.5em; font-size: 0.92rem; line-height: 1.4; min-width: 0; overflow-wrap: anywhere; }
.score-row { display: flex; flex-wrap: wrap; gap: 8px 22px; margin-top: 10px; }
.scores table { width: auto; margin-top: 2px; } .scores * { border: 0 !important; }
.scores th, .scores td { padding: 1px 7px; font-size: 0.76rem; background: none !important; position: static; }
.scores td.right { outline: 1.5px solid var(--good); outline-offset: -1px; border-radius: 3px; }
.texts { padding-left: 1.4em; font-size: 0.8rem; line-height: 1.4; min-width: 0; } .texts .right { font-weight: 600; }
pre { font: 0.78rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 8px 0 0;
  background: var(--raised); border-radius: 8px; padding: 12px 14px; width: max-content; min-width: 100%; }
.plain pre { background: var(--paper); overflow-x: auto; width: auto; min-width: 0; }
.kind { font-size: 0.74rem; font-weight: 600; color: var(--soft); letter-spacing: 0.02em; }
blockquote { font-size: 0.95rem; line-height: 1.45; overflow-wrap: anywhere; }
.found { display: grid; grid-template-columns: 128px 1fr; gap: 10px; align-items: center; padding-top: 9px; }
.by { font-size: 0.8rem; line-height: 1.35; }
.by span { color: var(--soft); display: block; font-size: 0.75rem; }
.tiles { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(5, minmax(0, 64px)); gap: 7px; }
.tiles li { position: relative; }
.tiles .pic { width: 100%; height: auto; aspect-ratio: 1; }
.tiles .right .pic { outline: 3px solid var(--good); }
.tick-mark { position: absolute; right: -6px; top: -7px; width: 19px; height: 19px; border-radius: 50%;
  background: var(--good); color: var(--paper); font: 700 12px/19px system-ui, sans-serif; text-align: center; }
details { margin-top: 16px; }
summary { cursor: pointer; font-weight: 600; font-size: 0.9rem; }
details table { margin-top: 10px; } details code { color: var(--ink); font-weight: 400; }
footer { margin-top: 56px; border-top: 1px solid var(--rule); padding-top: 14px; font-size: 0.82rem;
  color: var(--soft); }
@media (max-width: 640px) {
  body { font-size: 16px; }
  main { padding: 30px 16px 48px; }
  h1 { font-size: 1.7rem; } h2 { margin-top: 44px; }
  .stats { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; } .stat li { white-space: normal; }
  .stat { padding: 11px 12px; }
  .stat strong { font-size: 1.55rem; }
  .figures tbody th { white-space: normal; min-width: 7.5em; max-width: 9em; line-height: 1.3; }
  .wide-chart { display: none; } .narrow-chart { display: block; }
  .card { padding: 14px; } .found { grid-template-columns: 1fr; gap: 7px; padding-top: 14px; }
  .by span { display: inline; margin-left: 4px; } .asked .pic { width: 72px; height: 72px; }
}
"""
PRINT = """
  :root { --paper: #fff; } body { font-size: 10.5pt; }
  .stats { grid-template-columns: repeat(4, 1fr); } .stat { padding: 8px 10px; } .stat strong { font-size: 1.5rem; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 26px; break-after: avoid; } h3, .lead { break-after: avoid; }
  .lead, .notes { break-inside: avoid; } details:not([open]) { display: none; }
  .scroll { overflow: visible; } .chart svg { max-width: 100%; }
  table { font-size: 7.6pt; } th, td { padding: 4px; }
  figure, .stat, tr, .found { break-inside: avoid; } tbody th { position: static; }
  .wide-chart { display: block !important; } .narrow-chart { display: none !important; }
  .cards { grid-template-columns: 1fr 1fr; } .three { grid-template-columns: repeat(3, 1fr); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""
CSS = (
    f":root {{{LIGHT}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{{DARK}}} }}\n{BODY}"
    f"@media print {{{PRINT}}}\n"
)
