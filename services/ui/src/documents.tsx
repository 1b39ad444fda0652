import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import {
  documentPath,
  events,
  get,
  post,
  Problem,
  remove,
  upload,
  type Collection,
  type DocumentRow,
  type Job,
  type Report,
} from "./api";
import { Confirm } from "./confirm";
import { go } from "./place";
import type { Passage } from "./reader";
import { Trouble } from "./trouble";

interface Props {
  collection: string;
  collections: Collection[];
  permits: string[];
  changed: () => Promise<void>;
  open: (passage: Passage) => void;
}

const ENDED = ["done", "failed", "cancelled"];
const HEALS = [0, 429, 502, 503, 504]; // a service that is away, or has too much to do
const LOOK_AGAIN = 2000; // milliseconds

export function Documents(props: Props) {
  const { collection } = props;
  const [rows, setRows] = useState<DocumentRow[]>();
  const [next, setNext] = useState<string | null>(null);
  const [uploads, setUploads] = useState<Upload[]>([]);
  const [going, setGoing] = useState<DocumentRow>();
  const [error, setError] = useState<unknown>();
  const here = useRef<AbortController>(null);
  const writes = props.permits.includes("write");

  const load = useCallback(
    async (cursor = "") => {
      const query = new URLSearchParams({ collection, limit: "50" });
      if (cursor) query.set("cursor", cursor);
      try {
        const page = await get<{ documents: DocumentRow[]; next: string | null }>(
          `/v1/documents?${query}`,
        );
        setRows((before) => (cursor ? [...(before ?? []), ...page.documents] : page.documents));
        setNext(page.next);
        setError(undefined);
      } catch (why) {
        setRows([]);
        // The usual collection is made with its first document.
        const new_here = why instanceof Problem && why.status === 404 && collection === "default";
        setError(new_here ? undefined : why);
      }
    },
    [collection],
  );
  useEffect(() => void load(), [load]);

  const change = (id: string, changes: Partial<Upload>) =>
    setUploads((before) => before.map((one) => (one.id === id ? { ...one, ...changes } : one)));

  // Accepted documents become searchable whatever becomes of this page, or of the connection.
  const follow = async (id: string, job_id: string) => {
    const path = `/v1/jobs/${encodeURIComponent(job_id)}/events`;
    for (let ended = false; !ended && here.current; ) {
      try {
        for await (const [, data] of events("GET", path, undefined, here.current.signal)) {
          const job = data as Job;
          change(id, { job, away: false });
          ended = ENDED.includes(job.state);
        }
      } catch (why) {
        if (!(why instanceof Problem) || !HEALS.includes(why.status)) throw why;
        change(id, { away: true });
      }
      if (!ended) await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
    }
    await load();
    await props.changed();
  };

  useEffect(() => {
    const control = (here.current = new AbortController());
    const unfinished = async () => {
      const query = new URLSearchParams({ collection, limit: "50" });
      const { jobs } = await get<{ jobs: Job[] }>(`/v1/jobs?${query}`);
      const open = jobs.filter((job) => !ENDED.includes(job.state));
      const found = open.map((job) => ({ id: job.job_id, names: job.documents.map(nameOf), job }));
      setUploads((before) => [...before, ...found]);
      await Promise.all(found.map((one) => follow(one.id, one.id)));
    };
    // The list of documents has said already what is wrong; a page that is left follows nothing.
    unfinished().catch(() => undefined);
    return () => {
      here.current = null;
      control.abort();
    };
  }, [collection]);

  const send = async (files: File[]) => {
    if (!files.length) return;
    const id = crypto.randomUUID?.() ?? `${Date.now()}`; // only pages of TLS or loopback have it
    setUploads((before) => [{ id, names: files.map((file) => file.name) }, ...before]);
    const form = new FormData();
    form.set("collection", collection);
    for (const file of files) form.append("files", file);
    try {
      const { job_id } = await upload(form);
      await follow(id, job_id);
    } catch (why) {
      change(id, { error: why });
    }
  };

  const drop = async (row: DocumentRow) => {
    setGoing(undefined);
    try {
      await remove(documentPath(row.id, collection));
      await load();
      await props.changed();
    } catch (why) {
      setError(why);
    }
  };

  return (
    <section class="documents" aria-labelledby="documents-title">
      <div class="bar">
        <h2 id="documents-title">Documents in {collection}</h2>
        <Collections {...props} />
      </div>
      {writes && <DropZone send={send} />}
      {uploads.map((one) => (
        <UploadView key={one.id} upload={one} />
      ))}
      <Trouble error={error} />
      {rows?.length === 0 && !error && (
        <p class="empty">There is nothing here yet.{writes && " Drop files above."}</p>
      )}
      {rows && rows.length > 0 && (
        <ul class="rows">
          {rows.map((row) => (
            <li key={row.id}>
              <div>
                <button
                  type="button"
                  class="link"
                  onClick={() =>
                    props.open({ collection, id: row.id, title: row.title, page: null })
                  }
                >
                  {row.title || row.id}
                </button>
                <p class="faint">
                  {row.source} · {row.pages ? `${row.pages} pages · ` : ""}
                  {row.chunks} passages · {new Date(row.updated_at).toLocaleString()}
                </p>
                {row.warnings.map((warning) => (
                  <p class="note" key={warning}>
                    {warning}
                  </p>
                ))}
              </div>
              {writes && (
                <button type="button" class="quiet danger" onClick={() => setGoing(row)}>
                  Delete<span class="hidden"> {row.title || row.id}</span>
                </button>
              )}
            </li>
          ))}
        </ul>
      )}
      {next && (
        <button type="button" onClick={() => void load(next)}>
          Show more
        </button>
      )}
      {going && (
        <Confirm
          title={`Delete “${going.title || going.id}”?`}
          text="It is gone from answers at once. This cannot be undone."
          action="Delete it"
          confirmed={() => void drop(going)}
          cancelled={() => setGoing(undefined)}
        />
      )}
    </section>
  );
}

interface Upload {
  id: string;
  names: string[];
  job?: Job;
  away?: boolean; // nobody says how it goes on
  error?: unknown;
}

function nameOf(report: Report): string {
  return report.source || report.id;
}

function DropZone({ send }: { send: (files: File[]) => Promise<void> }) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        void send([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      <p>Drop files here: PDF, Word, PowerPoint, Excel, HTML, Markdown, mail, text, and more.</p>
      <button type="button" onClick={() => input.current?.click()}>
        Choose files
      </button>
      <input
        ref={input}
        type="file"
        multiple
        class="hidden"
        tabIndex={-1}
        aria-label="Files to add"
        onChange={(event) => {
          const chosen = [...(event.currentTarget.files ?? [])];
          event.currentTarget.value = "";
          void send(chosen);
        }}
      />
    </div>
  );
}

function UploadView({ upload: one }: { upload: Upload }) {
  const reports = one.job?.documents ?? [];
  const ended = one.job && ENDED.includes(one.job.state);
  return (
    <div class="upload" role="group" aria-label={`Upload of ${one.names.join(", ")}`}>
      {!one.job && !one.error && <p class="faint">Sending {one.names.join(", ")}…</p>}
      {one.away && (
        <p class="note">The connection broke off. What was sent is safe; looking again…</p>
      )}
      <Trouble error={one.error} />
      <ul>
        {reports.map((report, at) => (
          <ReportView key={at} report={report} />
        ))}
      </ul>
      <p class="hidden" role="status">
        {ended ? `Upload: ${one.job!.state}` : ""}
      </p>
    </div>
  );
}

function ReportView({ report }: { report: Report }) {
  const share = report.total ? (report.done ?? 0) / report.total : 0;
  const under_way = report.status === "queued" || report.status === "running";
  return (
    <li class={report.status}>
      <div class="line">
        <span class="name">{nameOf(report)}</span>
        <span class="state">
          {report.status === "running" ? (report.stage ?? "running") : report.status}
          {!under_way && !report.error && `, ${report.chunks} passages`}
        </span>
      </div>
      {under_way && (
        <progress
          max={1}
          value={report.total ? share : undefined}
          aria-label={`Progress of ${nameOf(report)}`}
        />
      )}
      {report.error && (
        <p class="trouble">
          <strong>{report.error}</strong> {report.hint}
        </p>
      )}
      {report.warnings.map((warning) => (
        <p class="note" key={warning}>
          {warning}
        </p>
      ))}
    </li>
  );
}

function Collections({ collection, collections, permits, changed }: Props) {
  const [name, setName] = useState("");
  const [going, setGoing] = useState(false);
  const [error, setError] = useState<unknown>();
  if (!permits.includes("admin")) return null;
  const create = async (event: Event) => {
    event.preventDefault();
    try {
      await post("/v1/collections", { name });
      setName("");
      setError(undefined);
      await changed();
      go({ collection: name });
    } catch (why) {
      setError(why);
    }
  };
  const drop = async () => {
    setGoing(false);
    try {
      await remove(`/v1/collections/${encodeURIComponent(collection)}`);
      await changed();
      go({ collection: collections.find((one) => one.name !== collection)?.name ?? "default" });
    } catch (why) {
      setError(why);
    }
  };
  return (
    <details class="menu">
      <summary>Collections</summary>
      <form class="row" onSubmit={create}>
        <label>
          A new one
          <input
            value={name}
            required
            pattern="[a-z0-9][a-z0-9_\-]*"
            placeholder="a-z, 0-9, - and _"
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <button type="submit">Create</button>
      </form>
      {collections.some((one) => one.name === collection) && (
        <button type="button" class="quiet danger" onClick={() => setGoing(true)}>
          Delete {collection} with all its documents
        </button>
      )}
      <Trouble error={error} />
      {going && (
        <Confirm
          title={`Delete the collection “${collection}”?`}
          text="All its documents go with it. This cannot be undone."
          action="Delete it all"
          confirmed={() => void drop()}
          cancelled={() => setGoing(false)}
        />
      )}
    </details>
  );
}
