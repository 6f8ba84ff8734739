import { TransmlaError } from "@transmla/core";

/** The hub could not be reached, refused a request, or sent something else than it lists. */
export class HubError extends TransmlaError {}
