import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { post, type Answer, type Citation, type Hit, type Scores } from "./api";
import { rendered } from "./markdown";
import type { Passage } from "./reader";
import { TraceView } from "./trace";
import { Trouble } from "./trouble";

interface Props {
  text: string;
  answer?: Answer;
  hits: Hit[];
  waiting: boolean; // something will come yet
  collection: string;
  open: (passage: Passage) => void;
}

export function AnswerView({ text, answer, hits, waiting, collection, open }: Props) {
  const body = useRef<HTMLDivElement>(null);
  const [peek, setPeek] = useState<Citation>();
  const citations = answer?.citations ?? [];
  const shown = answer?.answer ?? text;
  const doubted = answer?.sentences.some((one) => one.supported === false) ?? false;

  useLayoutEffect(() => {
    const markers = new Set(citations.map((one) => one.marker));
    body.current?.replaceChildren(rendered(shown, answer?.sentences ?? [], markers));
  }, [shown, answer]);

  // A marker may prove several sentences: the n-th button of a number is its n-th citation.
  const citationOf = (target: EventTarget | null): Citation | undefined => {
    const button = (target as Element | null)?.closest?.<HTMLElement>("button.marker");
    if (!button) return undefined;
    const same = [...body.current!.querySelectorAll<HTMLElement>("button.marker")].filter(
      (one) => one.dataset.marker === button.dataset.marker,
    );
    const own = citations.filter((one) => String(one.marker) === button.dataset.marker);
    return own[Math.min(same.indexOf(button), own.length - 1)];
  };
  const follow = (one: Citation | Hit) =>
    open({
      collection,
      id: one.document_id,
      title: one.title,
      page: one.page,
      start: one.start,
      end: one.end,
    });

  return (
    <div class="answer">
      {!shown && waiting && <p class="faint waiting">Reading…</p>}
      <div
        class="prose"
        ref={body}
        onClick={(event) => {
          const found = citationOf(event.target);
          if (found) follow(found);
        }}
        onMouseOver={(event) => setPeek(citationOf(event.target))}
        onMouseLeave={() => setPeek(undefined)}
        onFocusIn={(event) => setPeek(citationOf(event.target))}
        onFocusOut={() => setPeek(undefined)}
      />
      {peek && (
        <div class="peek" role="tooltip">
          <q>{peek.quote}</q>
          <span class="faint">
            {peek.title}
            {peek.page !== null && `, page ${peek.page}`}
          </span>
        </div>
      )}
      {answer?.abstained && (
        <p class="note">
          {hits.length ? "What comes nearest is below." : "Nothing in the collection comes near."}
        </p>
      )}
      {doubted && (
        <p class="note">
          What is underlined with dots is not supported by the passages that were read.
        </p>
      )}
      {answer && <Below answer={answer} hits={hits} follow={follow} />}
    </div>
  );
}

function Below(props: { answer: Answer; hits: Hit[]; follow: (one: Hit) => void }) {
  const { answer, hits } = props;
  return (
    <div class="below">
      {hits.length > 0 && <details open={answer.abstained}>
        <summary>
          {hits.length} {hits.length === 1 ? "passage" : "passages"}
        </summary>
        <ol class="sources">
          {hits.map((hit) => (
            <li key={hit.chunk_id}>
              <button type="button" class="link" onClick={() => props.follow(hit)}>
                {hit.title || hit.document_id}
                {hit.page !== null && `, page ${hit.page}`}
              </button>
              <p class="excerpt">{hit.text}</p>
              <ScoreList scores={hit.scores} />
            </li>
          ))}
        </ol>
      </details>}
      {answer.trace_id && <TraceView id={answer.trace_id} />}
      {answer.trace_id && <Feedback trace={answer.trace_id} />}
      {answer.notes.map((note) => (
        <p class="faint" key={note}>
          {note}
        </p>
      ))}
    </div>
  );
}

export function ScoreList({ scores }: { scores: Scores }) {
  const known = Object.entries(scores).filter(([, score]) => score !== null);
  return (
    <dl class="scores">
      {known.map(([stage, score]) => (
        <div key={stage}>
          <dt>{stage}</dt>
          <dd>{(score as number).toFixed(3)}</dd>
        </div>
      ))}
    </dl>
  );
}

function Feedback({ trace }: { trace: string }) {
  const [given, setGiven] = useState<string>();
  const [asking, setAsking] = useState(false);
  const [correction, setCorrection] = useState("");
  const [error, setError] = useState<unknown>();
  const say = async (rating: "up" | "down", right = "") => {
    try {
      await post("/v1/feedback", { trace_id: trace, rating, correction: right });
      setGiven(rating);
      setAsking(false);
    } catch (why) {
      setError(why);
    }
  };
  if (given) return <p class="faint" role="status">Thank you, it is kept with this answer.</p>;
  return (
    <div class="feedback">
      <span class="faint">Is it right?</span>
      <button type="button" class="quiet" onClick={() => void say("up")}>
        Yes
      </button>
      <button
        type="button"
        class="quiet"
        aria-expanded={asking}
        onClick={() => setAsking(!asking)}
      >
        No
      </button>
      {asking && (
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            void say("down", correction);
          }}
        >
          <label>
            What would be right (optional)
            <input
              value={correction}
              onInput={(event) => setCorrection(event.currentTarget.value)}
            />
          </label>
          <button type="submit">Send</button>
        </form>
      )}
      <Trouble error={error} />
    </div>
  );
}
