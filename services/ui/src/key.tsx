import { useEffect, useRef, useState } from "preact/hooks";
import { key } from "./api";

/** Asks for the API key. It stays in this tab, and is gone when that is closed. */
export function KeyPrompt(props: { close: () => void; done: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [value, setValue] = useState("");
  useEffect(() => dialog.current?.showModal(), []);
  const use = (event: Event) => {
    event.preventDefault();
    key.set(value.trim());
    props.done();
  };
  return (
    <dialog ref={dialog} aria-labelledby="key-title" onClose={props.close}>
      <form onSubmit={use}>
        <h2 id="key-title">{key.get() ? "Another API key" : "An API key is needed"}</h2>
        <p>
          Whoever runs this service makes one with <code>rag keys create</code>. It is kept in this
          tab alone.
        </p>
        <label>
          Key
          <input
            type="password"
            autocomplete="off"
            spellcheck={false}
            required
            placeholder="rag_…"
            value={value}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        </label>
        <div class="row">
          <button type="submit">Use it</button>
          {key.get() && (
            <button
              type="button"
              class="quiet"
              onClick={() => {
                key.set("");
                props.done();
              }}
            >
              Forget the key
            </button>
          )}
          <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
        </div>
      </form>
    </dialog>
  );
}
