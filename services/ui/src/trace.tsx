import { useState } from "preact/hooks";
import { get, type Trace } from "./api";
import { Trouble } from "./trouble";

// The stages as they follow each other; what is not among them comes behind.
const STAGES = [
  "condense", "cache", "embed", "retrieve", "rerank", "pack", "support", "generate", "cite",
];

const FIRST = 20; // candidates that are shown at once: what comes behind was seldom read

/** How an answer came about: a waterfall of its stages, and what became of every candidate. */
export function TraceView({ id }: { id: string }) {
  const [trace, setTrace] = useState<Trace>();
  const [error, setError] = useState<unknown>();
  const [whole, setWhole] = useState(false);
  const load = async (open: boolean) => {
    if (!open || trace) return;
    try {
      setTrace(await get<Trace>(`/v1/traces/${encodeURIComponent(id)}`));
    } catch (why) {
      setError(why);
    }
  };
  return (
    <details onToggle={(event) => void load(event.currentTarget.open)}>
      <summary>How it came about</summary>
      <Trouble error={error} />
      {trace && <Waterfall timings={trace.answer.timings} />}
      {trace && trace.searched !== trace.question && (
        <p class="faint">Searched for: {trace.searched}</p>
      )}
      {trace && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Candidates">
          <table>
            <caption class="hidden">Passages that were found, best first</caption>
            <thead>
              <tr>
                <th scope="col">Rank</th>
                <th scope="col">Document</th>
                <th scope="col">dense</th>
                <th scope="col">bm25</th>
                <th scope="col">fused</th>
                <th scope="col">rerank</th>
                <th scope="col">What became of it</th>
              </tr>
            </thead>
            <tbody>
              {trace.candidates.slice(0, whole ? undefined : FIRST).map((one) => (
                <tr key={one.rank} class={one.cited ? "cited" : undefined}>
                  <td>{one.rank}</td>
                  <th scope="row">
                    {one.title || one.document_id}
                    {one.page !== null && `, page ${one.page}`}
                  </th>
                  <td>{number(one.scores.dense)}</td>
                  <td>{number(one.scores.bm25)}</td>
                  <td>{number(one.scores.fused)}</td>
                  <td>{number(one.scores.rerank)}</td>
                  <td>
                    {one.cited
                      ? `cited as ${one.passage}`
                      : one.passage !== null
                        ? `read as ${one.passage}`
                        : one.why}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {trace && !whole && trace.candidates.length > FIRST && (
        <button type="button" class="quiet" onClick={() => setWhole(true)}>
          Show all {trace.candidates.length}
        </button>
      )}
    </details>
  );
}

function Waterfall({ timings }: { timings: Record<string, number> }) {
  const known = Object.keys(timings);
  const stages = [
    ...STAGES.filter((stage) => known.includes(stage)),
    ...known.filter((stage) => !STAGES.includes(stage)),
  ];
  const total = stages.reduce((sum, stage) => sum + timings[stage]!, 0) || 1;
  let begun = 0;
  return (
    <div class="waterfall">
      <svg viewBox={`0 0 100 ${stages.length * 4}`} preserveAspectRatio="none" aria-hidden="true">
        {stages.map((stage, row) => {
          const x = (100 * begun) / total;
          begun += timings[stage]!;
          const width = Math.max(0.4, (100 * timings[stage]!) / total);
          return <rect key={stage} x={x} y={row * 4 + 0.6} width={width} height="2.8" />;
        })}
      </svg>
      <dl>
        {stages.map((stage) => (
          <div key={stage}>
            <dt>{stage}</dt>
            <dd>{milliseconds(timings[stage]!)}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

function milliseconds(seconds: number): string {
  return `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 0)} ms`;
}

function number(score: number | null): string {
  return score === null ? "–" : score.toFixed(3);
}
