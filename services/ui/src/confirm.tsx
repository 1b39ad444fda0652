import { useEffect, useRef } from "preact/hooks";

interface Props {
  title: string;
  text: string;
  action: string;
  confirmed: () => void;
  cancelled: () => void;
}

/** Asks before something that cannot be undone. */
export function Confirm(props: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="confirm-title" onClose={props.cancelled}>
      <h2 id="confirm-title">{props.title}</h2>
      <p>{props.text}</p>
      <div class="row">
        <button type="button" class="danger" onClick={props.confirmed}>
          {props.action}
        </button>
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
          Keep it
        </button>
      </div>
    </dialog>
  );
}
