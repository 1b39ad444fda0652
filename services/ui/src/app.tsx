import { useCallback, useEffect, useState } from "preact/hooks";
import { get, key, KEY_WANTED, type Collection, type Me } from "./api";
import { Chat } from "./chat";
import { Documents } from "./documents";
import { KeyPrompt } from "./key";
import { go, usePlace } from "./place";
import { Reader, type Passage } from "./reader";
import { nextTheme, theme } from "./theme";

export function App() {
  const place = usePlace();
  const [me, setMe] = useState<Me>();
  const [collections, setCollections] = useState<Collection[]>([]);
  const [asking, setAsking] = useState(false);
  const [passage, setPassage] = useState<Passage>();
  const [look, setLook] = useState(theme());

  const load = useCallback(async () => {
    try {
      setMe(await get<Me>("/v1/me"));
      const found = (await get<{ collections: Collection[] }>("/v1/collections")).collections;
      setCollections(found);
      const first = found[0]?.name;
      if (!location.hash && first && !found.some((one) => one.name === "default")) {
        go({ collection: first }); // the key may not reach the usual one
      }
    } catch {
      // Without a key the prompt opens; a service that is away says so where it is used.
    }
  }, []);

  useEffect(() => {
    const wanted = () => setAsking(true);
    addEventListener(KEY_WANTED, wanted);
    void load();
    return () => removeEventListener(KEY_WANTED, wanted);
  }, [load]);

  useEffect(() => setPassage(undefined), [place.view, place.collection]);

  const names = collections.map((one) => one.name);
  if (!names.includes(place.collection)) names.unshift(place.collection);
  return (
    <div class={passage ? "shell reading" : "shell"}>
      <a class="skip" href="#content" onClick={(e) => skip(e)}>
        Skip to the content
      </a>
      <header>
        <h1>Ragstone</h1>
        <nav aria-label="Views">
          {(["chat", "documents"] as const).map((view) => (
            <button
              type="button"
              key={view}
              aria-current={place.view === view ? "page" : undefined}
              onClick={() => go({ view })}
            >
              {view === "chat" ? "Ask" : "Documents"}
            </button>
          ))}
        </nav>
        <div class="tools">
          <label>
            <span class="hidden">Collection</span>
            <select
              value={place.collection}
              onChange={(event) => go({ collection: event.currentTarget.value })}
            >
              {names.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
          <button type="button" class="quiet" onClick={() => setLook(nextTheme())}>
            <span class="wide">Theme: </span>
            {look}
          </button>
          {key.get() && (
            <button type="button" class="quiet" onClick={() => setAsking(true)}>
              Key<span class="hidden"> of {me?.name}</span>
            </button>
          )}
        </div>
      </header>
      <main id="content" tabIndex={-1}>
        {place.view === "chat" ? (
          <Chat collection={place.collection} key={place.collection} open={setPassage} />
        ) : (
          <Documents
            collection={place.collection}
            collections={collections}
            permits={me?.permits ?? []}
            changed={load}
            open={setPassage}
            key={place.collection}
          />
        )}
      </main>
      {passage && <Reader passage={passage} close={() => setPassage(undefined)} />}
      {asking && (
        <KeyPrompt
          close={() => setAsking(false)}
          done={() => {
            setAsking(false);
            location.reload();
          }}
        />
      )}
    </div>
  );
}

function skip(event: Event): void {
  event.preventDefault(); // the hash is the place
  document.getElementById("content")?.focus();
}
