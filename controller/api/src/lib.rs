//! REST types and OpenAPI document of the controller.
