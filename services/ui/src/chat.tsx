import { useEffect, useRef, useState } from "preact/hooks";
import { events, Problem, type Answer, type Hit } from "./api";
import { AnswerView } from "./answer";
import type { Passage } from "./reader";
import { Trouble } from "./trouble";

interface Turn {
  question: string;
  text: string; // as it streams
  hits: Hit[];
  answer?: Answer;
  stopped?: boolean;
  error?: unknown;
}

interface Sampling {
  temperature: string;
  top_p: string;
  max_new_tokens: string;
  do_sample: boolean;
}

const FIRST: Sampling = { temperature: "", top_p: "", max_new_tokens: "", do_sample: false };
const kept = (collection: string) => `ragstone-chat-${collection}`;

export function Chat(props: { collection: string; open: (passage: Passage) => void }) {
  const [turns, setTurns] = useState<Turn[]>(() => remembered(props.collection));
  const [question, setQuestion] = useState("");
  const [sampling, setSampling] = useState(FIRST);
  const [said, setSaid] = useState(""); // to screen readers: when an answer is there, not each word
  const running = useRef<AbortController>(null);
  const end = useRef<HTMLDivElement>(null);
  const busy = turns.some(waits);

  useEffect(() => {
    const whole = turns.filter((turn) => turn.answer);
    sessionStorage.setItem(kept(props.collection), JSON.stringify(whole.slice(-20)));
  }, [turns]);
  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => {
    if (turns.length) end.current?.scrollIntoView({ block: "end" });
  }, [turns.length]);

  const change = (at: number, changes: Partial<Turn>) =>
    setTurns((all) => all.map((turn, n) => (n === at ? { ...turn, ...changes } : turn)));

  const ask = async (event?: Event) => {
    event?.preventDefault();
    const asked = question.trim();
    if (!asked || busy) return;
    const at = turns.length;
    const history = turns
      .filter((turn) => turn.answer)
      .flatMap((turn) => [
        { role: "user", content: turn.question },
        { role: "assistant", content: turn.answer!.answer },
      ]);
    setTurns([...turns, { question: asked, text: "", hits: [] }]);
    setQuestion("");
    setSaid("Looking for an answer");
    const control = (running.current = new AbortController());
    const body = {
      question: asked,
      collection: props.collection,
      history,
      stream: true,
      ...numbers(sampling),
    };
    let text = "";
    let whole = false;
    try {
      for await (const [name, data] of events("POST", "/v1/ask", body, control.signal)) {
        if (name === "retrieval") change(at, { hits: (data as { hits: Hit[] }).hits });
        if (name === "token") change(at, { text: (text += (data as { text: string }).text) });
        if (name === "done") {
          const answer = data as Answer;
          whole = true;
          change(at, { answer, hits: answer.hits });
          const count = answer.citations.length;
          setSaid(answer.abstained ? "No answer was found" : `Answered, with ${count} citations`);
        }
        if (name === "error") {
          const { status, detail, hint } = data as { status: number; detail: string; hint: string };
          throw new Problem(status, detail, hint);
        }
      }
      if (!whole) throw new Problem(0, "The answer broke off before its end.", "Ask again.");
    } catch (error) {
      if (control.signal.aborted) change(at, { stopped: true });
      else change(at, { error: missing(error) });
      setSaid(""); // the error speaks for itself
    }
  };

  return (
    <section class="chat" aria-label="Conversation">
      <div class="turns">
        {turns.length === 0 && (
          <div class="empty">
            <h2>Ask your documents</h2>
            <p>
              Each statement of an answer comes with its source: follow a number to the very words in
              the document. Nothing in <strong>{props.collection}</strong> yet? Drop files into
              Documents first.
            </p>
          </div>
        )}
        {turns.map((turn, at) => (
          <article class="turn" key={at} aria-label={`Question: ${turn.question}`}>
            <h2 class="question">{turn.question}</h2>
            <AnswerView
              text={turn.text}
              answer={turn.answer}
              hits={turn.hits}
              waiting={waits(turn)}
              collection={props.collection}
              open={props.open}
            />
            {turn.stopped && <p class="faint">Stopped.</p>}
            <Trouble error={turn.error} />
          </article>
        ))}
        <div ref={end} />
      </div>
      <p class="hidden" role="status">
        {said}
      </p>
      <form class="composer" onSubmit={ask}>
        <label class="hidden" for="question">
          Your question
        </label>
        <textarea
          id="question"
          rows={2}
          placeholder="Ask a question"
          value={question}
          onInput={(event) => setQuestion(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) void ask(event);
          }}
        />
        {busy ? (
          <button type="button" onClick={() => running.current?.abort()}>
            Stop
          </button>
        ) : (
          <button type="submit" disabled={!question.trim()}>
            Ask
          </button>
        )}
        <details class="options">
          <summary>How it is written</summary>
          <SamplingFields value={sampling} change={setSampling} />
          {turns.length > 0 && (
            <button type="button" class="quiet" onClick={() => setTurns([])} disabled={busy}>
              Begin a new conversation
            </button>
          )}
        </details>
      </form>
    </section>
  );
}

function waits(turn: Turn): boolean {
  return !turn.answer && !turn.error && !turn.stopped;
}

/** Who asks a collection that is not there yet is told where documents come in. */
function missing(error: unknown): unknown {
  if (!(error instanceof Problem) || error.status !== 404) return error;
  return new Problem(404, error.message, "Drop files into Documents first.");
}

function SamplingFields(props: { value: Sampling; change: (value: Sampling) => void }) {
  const field = (name: "temperature" | "top_p" | "max_new_tokens", step: string) => (
    <label>
      {name}
      <input
        type="number"
        min="0"
        step={step}
        placeholder="default"
        value={props.value[name]}
        onInput={(event) => props.change({ ...props.value, [name]: event.currentTarget.value })}
      />
    </label>
  );
  return (
    <div class="row fields">
      {field("temperature", "0.1")}
      {field("top_p", "0.05")}
      {field("max_new_tokens", "1")}
      <label class="check">
        <input
          type="checkbox"
          checked={props.value.do_sample}
          onChange={(event) =>
            props.change({ ...props.value, do_sample: event.currentTarget.checked })
          }
        />
        do_sample
      </label>
    </div>
  );
}

function numbers(sampling: Sampling): Record<string, number | boolean> {
  const given: Record<string, number | boolean> = {};
  for (const name of ["temperature", "top_p", "max_new_tokens"] as const) {
    if (sampling[name] !== "") given[name] = Number(sampling[name]);
  }
  if (sampling.do_sample) given["do_sample"] = true;
  return given;
}

function remembered(collection: string): Turn[] {
  try {
    return JSON.parse(sessionStorage.getItem(kept(collection)) ?? "[]") as Turn[];
  } catch {
    return [];
  }
}
