// The API as the page uses it: one place that knows the key, problems and event streams.

export interface Scores {
  dense: number | null;
  bm25: number | null;
  fused: number | null;
  rerank: number | null;
}

export interface Hit {
  document_id: string;
  chunk_id: string;
  title: string;
  text: string;
  start: number;
  end: number;
  page: number | null;
  headings: string[];
  source: string;
  score: number;
  scores: Scores;
}

export interface Citation {
  marker: number;
  document_id: string;
  title: string;
  source: string;
  page: number | null;
  headings: string[];
  quote: string;
  start: number;
  end: number;
  scores: Scores;
}

export interface Sentence {
  start: number;
  end: number;
  supported: boolean | null;
  support: number | null;
}

export interface Answer {
  answer: string;
  citations: Citation[];
  abstained: boolean;
  models: Record<string, string>;
  timings: Record<string, number>;
  usage: { prompt_tokens: number; completion_tokens: number };
  trace_id: string;
  cuts: { what: string; why: string }[];
  notes: string[];
  sentences: Sentence[];
  hits: Hit[];
}

export interface Candidate {
  rank: number;
  document_id: string;
  title: string;
  page: number | null;
  score: number;
  scores: Scores;
  passage: number | null;
  cited: boolean;
  why: string;
}

export interface Trace {
  id: string;
  created_at: string;
  question: string;
  searched: string;
  answer: Answer;
  prompt: { role: string; content: string }[];
  candidates: Candidate[];
}

export interface DocumentRow {
  id: string;
  title: string;
  source: string;
  media_type: string;
  metadata: Record<string, unknown>;
  chunks: number;
  tokens: number;
  pages: number;
  characters: number;
  warnings: string[];
  updated_at: string;
}

export interface Report {
  id: string;
  status: string;
  source: string;
  title?: string;
  stage?: string;
  done?: number;
  total?: number;
  chunks: number;
  warnings: string[];
  error?: string;
  hint?: string;
}

export interface Job {
  job_id: string;
  state: string;
  documents: Report[];
}

export interface Collection {
  name: string;
  chunks: number;
  embedder: string;
}

export interface Me {
  name: string;
  role: string | null;
  permits: string[];
  tenant: string;
}

/** A problem object (RFC 9457) as an error; `hint` says what to do. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
    readonly hint = "",
    readonly retryAfter = 0,
  ) {
    super(detail);
  }
}

const KEY = "ragstone-key";
/** Fired on `window` when a call was answered 401. */
export const KEY_WANTED = "ragstone-key-wanted";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value: string) =>
    value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

async function send(method: string, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, method, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem(0, "The service does not answer.", "Is it running? Try again in a moment.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) window.dispatchEvent(new Event(KEY_WANTED));
  const wait = Number(response.headers.get("Retry-After") ?? 0);
  const detail = problem.detail ?? `The service answered ${response.status}.`;
  throw new Problem(response.status, detail, problem.hint ?? "", wait);
}

export async function get<T>(path: string): Promise<T> {
  return (await send("GET", path)).json();
}

export async function text(path: string): Promise<string> {
  return (await send("GET", path)).text();
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return (await send("POST", path, { headers, body: JSON.stringify(body) })).json();
}

export async function upload(form: FormData): Promise<{ job_id: string; documents: Report[] }> {
  return (await send("POST", "/v1/documents", { body: form })).json();
}

export async function remove(path: string): Promise<void> {
  await send("DELETE", path);
}

/** The server-sent events of a route: [name, data]. Throws when the connection breaks off. */
export async function* events(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): AsyncGenerator<[string, unknown]> {
  const init: RequestInit = { signal };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  const response = await send(method, path, init);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error: unknown) => {
      if (signal?.aborted) throw error;
      throw new Problem(0, "The connection broke off.", "Try again in a moment.");
    });
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}

/** The route of a document, whatever its id holds. */
export function documentPath(id: string, collection: string, part = ""): string {
  return `/v1/documents/${encodeURIComponent(id)}${part}?collection=${encodeURIComponent(collection)}`;
}
