import { Problem } from "./api";

/** What went wrong, and what to do about it. */
export function Trouble({ error }: { error: unknown }) {
  if (!error) return null;
  const problem = error instanceof Problem ? error : new Problem(0, String(error));
  return (
    <p class="trouble" role="alert">
      <strong>{problem.message}</strong> {problem.hint}
      {problem.retryAfter > 0 && ` Try again in ${problem.retryAfter} s.`}
    </p>
  );
}
