"""Style sheet of the page: light, dark, phone and print."""

from __future__ import annotations

LIGHT = """
  --paper: #fdfdfb; --raised: #f5f4ef; --ink: #1c1d20; --soft: #5b5e66; --rule: #dcdad2; --grid: #e7e5de;
  --accent: #1d54a8; --good: #12744f;
  --m0: #858a93; --m1: #d6742a; --m2: #b59a1e; --m3: #57aadb; --m4: #9567c7; --m5: #1d54a8; --m6: #17917a;
  --m7: #b0436e; color-scheme: light;
"""
DARK = """
  --paper: #14161a; --raised: #1d2026; --ink: #e7e6e2; --soft: #a2a5ad; --rule: #353941; --grid: #292d34;
  --accent: #86b4ff; --good: #5fd0a0;
  --m0: #9aa0aa; --m1: #eb9049; --m2: #d0b640; --m3: #6ec1ee; --m4: #b48ce4; --m5: #4f8df5; --m6: #3dbb9f;
  --m7: #dd7099; color-scheme: dark;
"""
BODY = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 Charter, "Iowan Old Style", "Source Serif 4", Cambria, Georgia, serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 72px; }
p, blockquote, ul, ol, dl, figure { margin: 0; }
h1, h2, h3, th, .kind, .meta, .legend, .stat, .by, svg text, td, summary, figcaption, dt, footer {
  font-family: "Inter", "Source Sans 3", system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
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
.stat strong small { font-size: 0.85rem; letter-spacing: 0; font-weight: 500; color: var(--soft); }
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
tr.ours > * { background: var(--raised); }
td strong { font-weight: 750; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 8px;
  background: var(--c, transparent); }
.note { font-size: 0.86rem; color: var(--soft); margin-top: 10px; max-width: 82ch; }
.methods { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 0.9rem;
  margin-top: 18px; }
.methods dt { font-weight: 600; font-size: 0.84rem; padding-top: 1px; }
.methods dd { margin: 0; color: var(--soft); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 22px 26px; }
.wide { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px 30px; }
.wide > figure { max-width: 640px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--ink); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .tick { fill: var(--soft); font-size: 11.5px; } svg .label { fill: var(--soft); }
svg .figure { font-weight: 600; }
.bar { fill: var(--c); } .curve { stroke: var(--c); stroke-width: 1.9; fill: none; stroke-linejoin: round; }
.grid { stroke: var(--grid); } .zero { stroke: var(--ink); } .chance { stroke: var(--ink); stroke-width: 1.5;
  stroke-dasharray: 2 2; }
.m0 { --c: var(--m0); } .m1 { --c: var(--m1); } .m2 { --c: var(--m2); } .m3 { --c: var(--m3); }
.m4 { --c: var(--m4); } .m5 { --c: var(--m5); } .m6 { --c: var(--m6); } .m7 { --c: var(--m7); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 0 0 14px;
  font-size: 0.82rem; }
.legend li { display: flex; align-items: center; gap: 7px; }
.legend svg { width: auto; height: 12px; flex: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 20px; }
.card { background: var(--raised); border-radius: 12px; padding: 18px; break-inside: avoid; min-width: 0; }
.asked { display: flex; gap: 16px; align-items: flex-start; margin-bottom: 12px; }
.asked > div { min-width: 0; }
.asked img { width: 84px; height: 84px; flex: none; }
.kind { font-size: 0.74rem; font-weight: 600; color: var(--soft); letter-spacing: 0.02em; }
blockquote { font-size: 0.95rem; line-height: 1.45; overflow-wrap: anywhere; }
.found { display: grid; grid-template-columns: 128px 1fr; gap: 10px; align-items: center; padding-top: 9px; }
.by { font-size: 0.8rem; line-height: 1.35; border-left: 3px solid var(--c); padding-left: 9px; }
.by span { color: var(--soft); display: block; font-size: 0.75rem; }
.tiles { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(5, minmax(0, 64px)); gap: 7px; }
.tiles li { position: relative; }
img { background: #fff; border-radius: 8px; padding: 3px; display: block; }
.tiles img { width: 100%; height: auto; aspect-ratio: 1; box-shadow: inset 0 0 0 1px var(--rule); }
.tiles .right img { outline: 3px solid var(--good); }
.tick-mark { position: absolute; right: -6px; top: -7px; width: 19px; height: 19px; border-radius: 50%;
  background: var(--good); color: var(--paper); font: 700 12px/19px system-ui, sans-serif; text-align: center; }
details { margin-top: 16px; }
summary { cursor: pointer; font-weight: 600; font-size: 0.9rem; }
details table { margin-top: 10px; } details code { color: var(--ink); font-weight: 400; }
.narrow { max-width: 420px; }
footer { margin-top: 56px; border-top: 1px solid var(--rule); padding-top: 14px; font-size: 0.82rem;
  color: var(--soft); }
@media (max-width: 640px) {
  body { font-size: 16px; }
  main { padding: 30px 16px 48px; }
  h1 { font-size: 1.7rem; } h2 { margin-top: 44px; }
  .stats { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; } .stat li { white-space: normal; }
  .stat { padding: 11px 12px; }
  .stat strong { font-size: 1.55rem; }
  .methods { grid-template-columns: 1fr; gap: 0; } .methods dd { margin-bottom: 8px; }
  .card { padding: 14px; } .found { grid-template-columns: 1fr; gap: 7px; padding-top: 14px; }
  .by span { display: inline; margin-left: 4px; } .asked img { width: 68px; height: 68px; }
}
"""
PRINT = """
  :root { --paper: #fff; } body { font-size: 10.5pt; }
  .stats { grid-template-columns: repeat(4, 1fr); } .stat { padding: 8px 10px; } .stat strong { font-size: 1.5rem; }
  .wide { grid-template-columns: 1fr 1fr; } main { max-width: none; padding: 0; }
  h2 { margin-top: 26px; break-after: avoid; } h3, .lead { break-after: avoid; }
  .scroll { overflow: visible; } .languages svg { min-width: 0 !important; }
  table { font-size: 7.6pt; } th, td { padding: 4px; }
  figure, .stat, tr, .found { break-inside: avoid; } tbody th { position: static; }
  .panels { grid-template-columns: repeat(3, 1fr); gap: 12px 14px; } .cards { grid-template-columns: 1fr 1fr; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""
CSS = (
    f":root {{{LIGHT}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{{DARK}}} }}\n{BODY}"
    f"@media print {{{PRINT}}}\n"
)
